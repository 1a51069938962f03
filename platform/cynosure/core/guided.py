"""GuidedModel: y = f(x, z) with z from the oracle in training and from the prior when predicting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, final, get_args

import torch
from torch import nn

from cynosure.core.contracts import Base, Criterion, Prior, Quantizer, Task, Tokenizer
from cynosure.core.decoding import check_settings, row_uniforms
from cynosure.core.dropout import keep_mask
from cynosure.core.freezing import freeze
from cynosure.core.records import Batch, Codes, Encoded, Prediction, SampleSettings, Shapes, StepOutput
from cynosure.core.shards import is_sharded
from cynosure.errors import CynosureError, DataError, unknown

Stage = Literal["codes", "prior", "refit"]
CodeSource = Literal["prior", "oracle", "random", "none"]
CODE_SOURCES: tuple[CodeSource, ...] = ("oracle", "prior", "random", "none")


@final
class GuidedModel(nn.Module):
    """Owns the parts. `forward(batch, stage)` is the only entry of training: DDP, FSDP and compile wrap one thing."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        shapes: Shapes,
        base: Base,
        tokenizer: Tokenizer | None = None,
        prior: Prior | None = None,
        code_dropout: float = 1.0,
        loss_weights: Mapping[str, float] | None = None,
        criteria: Sequence[Criterion] = (),
        prior_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = dict(tasks)
        self.shapes = shapes
        self.base = base
        self.tokenizer = tokenizer
        self.prior = prior
        self.criteria = nn.ModuleList(criteria)
        self.code_dropout = code_dropout
        self.loss_weights, self.prior_weights = dict(loss_weights or {}), dict(prior_weights or {})
        if prior is not None and tokenizer is not None:
            prior.attach(tokenizer)
        self.frozen: frozenset[str] = frozenset()  # names in `state_dict` that no stage changes

    def set_stage(self, stage: Stage | None) -> None:
        """Make exactly the parts that learn in a stage trainable and in training mode; None: none (inference)."""
        learning = {
            "codes": (self.base, self.tokenizer, self.criteria),
            "prior": (self.prior,),
            "refit": (self.base,),
            None: (),
        }[stage]
        self.eval().requires_grad_(False)
        for part in learning:
            if part is not None:
                part.train().requires_grad_(True)
        freeze(self, self.frozen)

    def end_step(self) -> None:
        """After an optimizer step: quantizers learn from all of its batches at once, criteria count it."""
        for part in self.modules():
            if isinstance(part, Quantizer) and part.training:
                part.learn()
            elif isinstance(part, Criterion) and part.training:
                part.end_step()

    def forward(self, batch: Batch, stage: Stage) -> StepOutput:
        """Loss of one batch of one task in a stage; `logs` holds every term by name."""
        if stage == "prior":
            return self._prior_step(batch)
        encoded = self._encode(batch) if stage == "codes" else None
        if stage == "codes":
            vectors = self._thin(encoded.vectors) if encoded else None
        else:
            vectors = self._vectors(self._stored(batch))
        outputs = self.base(batch.inputs, vectors, batch.task)
        judged = stage == "codes" and len(self.criteria) > 0
        if judged:  # so that criteria can ask for gradients here without waking what FSDP has hooked to the outputs
            outputs = outputs.view_as(outputs)
        terms = dict(self.tasks[batch.task].loss(outputs, batch))
        weight = self.loss_weights.get(batch.task, 1.0)
        loss = weight * torch.stack(list(terms.values())).sum()
        if judged:
            loss = self._judge(outputs, batch, loss, terms)
        stats: Mapping[str, torch.Tensor] = {}
        if encoded is not None:
            losses = {**encoded.losses, **self.base.penalties(encoded.vectors, batch.task)}
            loss = loss + sum(losses.values())
            terms |= losses
            stats = encoded.stats
        return StepOutput(loss, {k: v.detach() for k, v in {**terms, **stats}.items()})

    def _judge(
        self, outputs: torch.Tensor, batch: Batch, loss: torch.Tensor, terms: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The loss with those of all criteria, which `terms` gets by name."""
        targets = self.tasks[batch.task].encode_targets(batch)
        last = getattr(self.base.last_layer(batch.task), "weight", None)
        if last is not None and is_sharded(last):  # what the outputs were made with is gone by now
            last = None
        for criterion in self.criteria:
            found = criterion(outputs, targets, batch.task, loss, last)
            loss = loss + torch.stack(list(found.values())).sum()
            terms |= found
        return loss

    def _prior_step(self, batch: Batch) -> StepOutput:
        if self.prior is None:
            raise CynosureError("stage prior needs model.prior in the recipe.")
        codes = self._taught(self.prior, batch)
        losses = self.prior.loss(batch.inputs, codes, batch.task)
        logs = {k: v.detach() for k, v in losses.items()}
        if codes.probabilities is not None:
            logs["entropy"] = codes.entropy()
        weight = self.prior_weights.get(batch.task, 1.0)
        return StepOutput(weight * torch.stack(list(losses.values())).sum(), logs)

    def _encode(self, batch: Batch) -> Encoded | None:
        if self.tokenizer is None:
            return None
        targets = self.tasks[batch.task].encode_targets(batch)
        return self.tokenizer(targets, batch.inputs, batch.task)

    def _stored(self, batch: Batch) -> Codes:
        """The codes that came with the batch, else the oracle's."""
        if batch.codes is not None and self.tokenizer is not None:
            return Codes(batch.codes, self.tokenizer.spec)
        with torch.no_grad():
            return self._written(batch).codes  # in a step nothing waits for the device

    def _taught(self, prior: Prior, batch: Batch) -> Codes:
        """What the prior learns from: codes, in training with the probabilities that it asks for."""
        if prior.soft_targets is None or self.tokenizer is None or not prior.training:
            return self._stored(batch)
        targets = self.tasks[batch.task].encode_targets(batch)
        return self.tokenizer.soft_codes(targets, batch.inputs, batch.task, prior.soft_targets)

    def _vectors(self, codes: Codes | None) -> torch.Tensor | None:
        return None if codes is None or self.tokenizer is None else self.tokenizer.vectors(codes)

    def _thin(self, vectors: torch.Tensor) -> torch.Tensor:
        """Code dropout (UViM, section 2.3): a dropped code is the zero vector."""
        if not self.base.training or self.code_dropout == 0:
            return vectors
        keep = keep_mask(len(vectors), vectors.shape[1], self.code_dropout, device=vectors.device)
        return vectors * keep[..., None]

    @torch.no_grad()
    def encode(self, batch: Batch) -> Codes:
        """The oracle's codes of a batch that carries targets.

        Raises CynosureError when its vectors are NaN, to which a quantizer would give codes all the same.
        """
        encoded = self._written(batch)
        if not encoded.vectors.is_meta and bool(encoded.vectors.isnan().any()):
            raise CynosureError(
                f"the oracle's vectors of task {batch.task} are NaN: its data hold NaN and must be repaired, or the "
                "weights do, and an earlier checkpoint must be used."
            )
        return encoded.codes

    def _written(self, batch: Batch) -> Encoded:
        encoded = self._encode(batch)
        if encoded is None:
            raise CynosureError("this model has no tokenizer, hence no codes.")
        return encoded

    @torch.no_grad()
    def codes(self, batch: Batch, source: CodeSource, settings: SampleSettings, seeds: torch.Tensor) -> Codes | None:
        """Codes for a batch: sampled by the prior, written by the oracle, uniformly random, or none at all."""
        if source == "none" or self.tokenizer is None:
            return None
        if source == "oracle":
            if not batch.targets:
                raise DataError("codes: oracle needs the answer; predict with codes: prior instead.")
            return self.encode(batch)
        if source == "random":
            return self._random_codes(seeds)
        if source != "prior":
            raise CynosureError(unknown("source of codes", source, get_args(CodeSource)))
        if settings.known is not None and (settings.known >= 0).all():
            return Codes(settings.known, self.tokenizer.spec)
        if self.prior is None:
            raise CynosureError(
                "this model has no trained prior: --resume a run with stage prior, train one from this with init.from, "
                "or use --codes none."
            )
        check_settings(settings, self.prior, self.tokenizer.spec)
        return self.prior.sample(batch.inputs, batch.task, settings, seeds)

    def _random_codes(self, seeds: torch.Tensor) -> Codes:
        assert self.tokenizer is not None
        spec = self.tokenizer.spec
        limits = spec.limits().to(seeds.device)
        uniforms = row_uniforms(seeds, limits.numel()).view(-1, *limits.shape)
        return Codes((uniforms * limits).long(), spec)

    @torch.no_grad()
    def outputs(self, batch: Batch, codes: Codes | None) -> torch.Tensor:
        """Raw outputs [B, C, H, W] of the base; without codes it sees all of them dropped."""
        vectors = self._vectors(codes)
        if vectors is None and self.tokenizer is not None:
            like = next(self.base.parameters())
            vectors = like.new_zeros(len(batch), self.tokenizer.code_positions, self.tokenizer.code_dim)
        return self.base(batch.inputs, vectors, batch.task)

    @torch.no_grad()
    def predict(
        self, batch: Batch, settings: SampleSettings, seeds: torch.Tensor, source: CodeSource = "prior"
    ) -> list[Prediction]:
        """Answers of a batch at the model's resolution; seeds int64 [B] choose among the answers of each row."""
        codes = self.codes(batch, source, settings, seeds)
        return self.decode(batch, codes)

    def decode(self, batch: Batch, codes: Codes | None, task: Task | None = None) -> list[Prediction]:
        """The answers that codes stand for, and carry, as `task` reads the outputs: by default the model's own."""
        predictions = (task or self.tasks[batch.task]).decode(self.outputs(batch, codes), batch)
        if codes is None:
            return predictions
        ids = codes.ids.cpu().numpy()
        return [Prediction(p.task, p.values, ids[i], p.meta) for i, p in enumerate(predictions)]
