"""The code language model of UViM: an encoder-decoder transformer that writes codes one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, final

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.blocks import NORM_EPS, DecoderBlock, KVCache, zero_initialized
from cynosure.core.contracts import Encoder, PartConfig, Prior
from cynosure.core.decoding import draw, outside, row_uniforms
from cynosure.core.guidance import ConditionDropout, copies, guide, require_guidance
from cynosure.core.packing import sampling
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Shapes
from cynosure.errors import CynosureError


@final
class Autoregressive(Prior):
    """p(z | x) as a product over positions (Kolesnikov et al. 2022, section 2.4).

    Each task has its own start vector, and a token of its own that decoder positions attend to beside the image; of
    several, each also has an offset of its own for every position's input and for every code's logit, since what a code
    means and how often it comes differ from task to task. The published model, of one task, is `start_code: true,
    task_tokens: false`. Codes of depth D > 1 are written position by position, depth first; every position keeps to its
    segment's K.

    Raises ValueError for options that contradict each other or the codes.
    """

    class Config(PartConfig):
        dim: int = Field(1024, ge=1, description="width of the decoder")
        depth: int = Field(24, ge=1, description="decoder blocks")
        heads: int = Field(16, ge=1)
        mlp_dim: int = Field(4096, ge=1)
        label_smoothing: float = Field(0.0, ge=0, lt=1)
        start_code: bool = Field(
            False,
            description="the start symbol is token 0 of a vocabulary of K+1 and code z is token z+1 (UViM); the head "
            "may predict 0 too, which then stands for the last code",
        )
        task_tokens: bool = Field(
            True, description="what is learnt of each task beside the image; UViM's models know one task each"
        )
        condition_dropout: float = Field(
            0.0, ge=0, lt=1, description="share of training rows without what the encoder says, which guidance needs"
        )

    def __init__(self, config: Config, shapes: Shapes, encoder: Encoder | None) -> None:
        super().__init__()
        if shapes.spec is None:
            raise CynosureError("prior autoregressive needs a tokenizer: give the recipe model.tokenizer, or no prior.")
        _check(config, shapes.spec, tasks=len(shapes.channels), conditional=encoder is not None)
        self.config = config
        self.spec = shapes.spec
        self.encoder = encoder
        tokens, dim = self.spec.length * self.spec.depth, config.dim
        self.first = int(config.start_code)
        """The token of code 0."""
        self.embedding = nn.Embedding(self.first + self.spec.vocab_size, dim)
        starts = () if config.start_code else shapes.channels
        self.starts = nn.ParameterDict({t: nn.Parameter(torch.randn(dim)) for t in starts})
        context_dim = encoder.dim if encoder else dim
        named = shapes.channels if config.task_tokens else ()
        self.tasks = nn.ParameterDict({t: nn.Parameter(torch.randn(context_dim) * 0.02) for t in named})
        self.condition = ConditionDropout(context_dim, config.condition_dropout)
        self.positions = nn.Parameter(torch.randn(1, tokens, dim) * dim**-0.5)
        several = named if len(named) > 1 else ()
        self.task_positions = nn.ParameterDict({t: nn.Parameter(torch.zeros(1, tokens, dim)) for t in several})
        vocabulary = self.embedding.num_embeddings
        self.task_biases = nn.ParameterDict({t: nn.Parameter(torch.zeros(vocabulary)) for t in several})
        blocks = [DecoderBlock(dim, config.heads, config.mlp_dim, context_dim) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = zero_initialized(nn.Linear(dim, vocabulary))
        self.outside: torch.Tensor | None
        self.register_buffer("outside", outside(self.spec), persistent=False)

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        tokens = codes.ids.flatten(1) + self.first
        logits = self.logits(inputs, tokens, task)
        logits, smoothing = logits.flatten(0, 1).float(), self.config.label_smoothing if self.training else 0.0
        total = F.cross_entropy(logits, tokens.flatten(), reduction="sum", label_smoothing=smoothing)
        return {"nll": total / (len(tokens) * codes.spec.real)}

    def logits(self, inputs: Mapping[str, Any], tokens: torch.Tensor, task: str) -> torch.Tensor:
        """Teacher-forced logits [B, L*D, V] of tokens [B, L*D] in [0, V): the codes and V = K, or with `start_code` the
        codes + 1 and V = K + 1."""
        keys_values = self._project(inputs, len(tokens), task)
        x = torch.cat([self._start(task, len(tokens)), self.embedding(tokens[:, :-1])], 1) + self._positions(task)
        for block, kv in zip(self.blocks, keys_values, strict=True):
            x = block(x, kv)
        logits = self._predict(x, task)
        return logits if self.outside is None else logits.masked_fill(self.outside, -torch.inf)

    @torch.no_grad()
    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        tokens = torch.empty(len(seeds), self.positions.shape[1], dtype=torch.long, device=seeds.device)
        with sampling(self.blocks, self.head):  # the tokens were made outside, so that training may use them
            self._write(tokens, inputs, task, settings, row_uniforms(seeds, tokens.shape[1]))
        ids = (tokens - self.first) % self.spec.vocab_size
        return Codes(ids.view(-1, self.spec.length, self.spec.depth), self.spec)

    def _write(
        self,
        tokens: torch.Tensor,
        inputs: Mapping[str, Any],
        task: str,
        settings: SampleSettings,
        uniforms: torch.Tensor,
    ) -> None:
        """Fill tokens [B, L*D] position by position, with a uniform [B, L*D] for each."""
        B, total = tokens.shape
        rows = B * copies(settings.guidance)
        keys_values = self._project(inputs, rows, task, settings.guidance)
        x, positions = self._start(task, rows), self._positions(task)
        head_dim = self.config.dim // self.config.heads
        caches = [KVCache.empty(rows, self.config.heads, total, head_dim, kv[0]) for kv in keys_values]
        known = settings.known.flatten(1) if settings.known is not None else None
        for i in range(total):
            x = x + positions[:, i : i + 1]
            for block, kv, cache in zip(self.blocks, keys_values, caches, strict=True):
                x = block(x, kv, cache)
            logits = guide(self._predict(x[:, 0], task), settings.guidance)
            if self.outside is not None:
                logits = logits.masked_fill(self.outside[i], -torch.inf)
            token = draw(logits, settings, uniforms[:, i], i % self.spec.depth)
            tokens[:, i] = token if known is None else torch.where(known[:, i] >= 0, known[:, i] + self.first, token)
            x = self.embedding(tokens[:, i : i + 1]).repeat(rows // B, 1, 1)

    def _start(self, task: str, batch: int) -> torch.Tensor:
        start = self.embedding.weight[0] if self.config.start_code else self.starts[task]
        return start.expand(batch, 1, -1)

    def _positions(self, task: str) -> torch.Tensor:
        """[1, L*D, d]"""
        return self.positions + self.task_positions[task] if task in self.task_positions else self.positions

    def _predict(self, x: torch.Tensor, task: str) -> torch.Tensor:
        """Outputs of the last block [..., d] -> logits [..., V]."""
        logits = self.head(self.norm(x))
        return logits + self.task_biases[task] if task in self.task_biases else logits

    def _project(
        self, inputs: Mapping[str, Any], rows: int, task: str, guidance: float = 1.0
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Cross-attention keys and values of every block, computed once for all positions."""
        parts = []
        if self.config.task_tokens:
            parts.append(self.tasks[task].expand(rows, 1, -1))
        if self.encoder is None:
            require_guidance(guidance, learned=False)
        else:
            parts.append(self.condition.pair(self.condition(self.encoder(inputs, task)), guidance))
        context = torch.cat([part.to(parts[-1].dtype) for part in parts], 1)
        layers = [cast(DecoderBlock, block) for block in self.blocks]
        return [block.cross.project(context) for block in layers]


def _check(config: Autoregressive.Config, spec: CodeSpec, tasks: int, conditional: bool) -> None:
    """Raises ValueError with every reason why this prior cannot be."""
    differ = outside(spec) is not None
    reasons = {
        "label_smoothing would spread over codes that a segment does not have; set it to 0 for a tokenizer whose "
        "segments differ in vocabulary": differ and config.label_smoothing > 0,
        "start_code has one token for the last code; set it to false for a tokenizer whose segments differ in "
        "vocabulary": differ and config.start_code,
        "with start_code and without task_tokens the prior could not tell the tasks apart; set task_tokens: true or "
        "train one task": config.start_code and not config.task_tokens and tasks > 1,
        "without encoder and task_tokens there is nothing to attend to; set task_tokens: true": not conditional
        and not config.task_tokens,
        "condition_dropout drops what an encoder says; add model.prior.encoder or set it to 0": not conditional
        and config.condition_dropout > 0,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ValueError(f"prior autoregressive: {'. '.join(found)}")


@hookimpl
def cynosure_register(register: Any) -> None:
    register.prior("autoregressive", Autoregressive)
