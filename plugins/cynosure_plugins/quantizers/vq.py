"""Vector quantisation with one codebook: UViM's discounted totals, VQ-VAE's moving averages, plain gradients, SimVQ."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from pydantic import Field, model_validator
from torch import nn

from cynosure import hookimpl
from cynosure.core.contracts import Quantizer
from cynosure.core.records import Quantized
from cynosure_plugins.quantizers.codebook import (
    count_by_code,
    from_first_rank,
    gather_over_ranks,
    kmeans,
    nearest,
    require_finite,
    require_width,
    unit,
)
from cynosure_plugins.quantizers.entropy import codebook_entropy
from cynosure_plugins.quantizers.gradients import GRADIENTS
from cynosure_plugins.quantizers.learning import Codebook, CodebookConfig
from cynosure_plugins.quantizers.renumbering import Renumbering, Unknown, wrong

RESERVOIR = 4
"""Encoder outputs kept for the first dictionary, per codeword."""
UNUSED = 0.01
"""Codewords counted less, of what all would be if used alike, are not in use."""


@final
class VectorQuantizer(Codebook, Quantizer):
    """Replaces every vector by its nearest codeword; how the codewords learn is said at `Codebook`.

    A forward must run once per batch: gradient checkpointing around a quantizer would count every batch twice.

    The published tokenizers, beside UViM (the defaults): VQGAN as released is `update: gradient, normalize: false,
    min_count: 0, commitment: 0.25, legacy_beta: true, beginning: uniform`; MaskGIT the same without the last two and
    with `entropy: 0.1`; ViT-VQGAN and LlamaGen add `normalize: true, normalize_inputs: true` and `code_dim: 32` and 8.
    """

    class Config(CodebookConfig):
        dim: int = Field(768, ge=1, description="d, width of the vectors")
        code_dim: int | None = Field(
            None, ge=1, description="width of a codeword, with linear maps from and to `dim`; null: `dim`, no maps"
        )
        normalize: bool = Field(True, description="codewords have length 1")
        normalize_inputs: bool = Field(False, description="the vectors, mapped to `code_dim`, have length 1 too")
        gradient: Literal["straight_through", "rotation"] = Field(
            "straight_through", description="how the gradient gets from a codeword to its vector"
        )
        commitment: float = Field(0.0, ge=0, description="weight of the pull of vectors to their codewords")
        legacy_beta: bool = Field(
            False,
            description="as the released VQGANs were trained: `commitment` weights the pull of codewords to their"
            " vectors instead, and that of vectors has weight 1",
        )
        entropy: float = Field(
            0.0, ge=0, description="weight of the entropy loss: each vector decided, all codes in use (MaskGIT: 0.1)"
        )
        entropy_temperature: float = Field(0.01, gt=0, description="divides the squared distances in the entropy loss")
        entropy_targets: Literal["softmax", "argmax"] = Field(
            "softmax", description="argmax: the entropy loss sees which code is the likeliest, with softmax's gradient"
        )
        used: tuple[int, ...] | None = Field(
            None,
            description="codes that become 0, 1, ..., so that priors learn no others, as VQGAN's remap; null: all, as"
            " they are",
        )
        unknown: Unknown = Field(
            "random", description="what codes beside `used` become: random ones, one `extra` code, or this number"
        )
        warmup_steps: int = Field(
            0,
            ge=0,
            description="optimizer steps that pass vectors unquantised, then k-means makes the dictionary;"
            " short trainings collapse to a few codes without them",
        )

        @model_validator(mode="after")
        def _combinations(self) -> Any:
            if self.legacy_beta and self.update not in ("gradient", "simvq"):
                raise ValueError("legacy_beta needs update: gradient, whose codewords have a loss")
            if self.warmup_steps and self.update == "simvq":
                raise ValueError("warmup_steps: 0 is all that update: simvq can do, its codewords are frozen")
            if self.used is None and self.unknown != "random":
                raise ValueError("unknown is about codes beside `used`: give used, too")
            if self.used is not None and (problem := wrong(self.used, self.unknown, self.vocab_size)):
                raise ValueError(problem)
            return self

    reservoir: torch.Tensor
    collected: torch.Tensor

    def __init__(self, config: Config) -> None:
        width = config.code_dim or config.dim
        super().__init__(config, width, config.normalize)
        self.dim, self.depth, self.vocab_size = config.dim, 1, config.vocab_size
        self.renumbering: Renumbering | None = None
        if config.used is not None:
            self.renumbering = Renumbering(config.used, config.unknown, config.vocab_size)
            self.vocab_size = self.renumbering.vocab_size
        self.project_in = nn.Linear(self.dim, width) if config.code_dim else nn.Identity()
        self.project_out = nn.Linear(width, self.dim) if config.code_dim else nn.Identity()
        if config.warmup_steps:
            self.register_buffer("reservoir", torch.zeros(RESERVOIR * self.size, width))
            self.register_buffer("collected", torch.zeros((), dtype=torch.int64))
        self._passed: list[torch.Tensor] = []  # by the warm-up in this optimizer step

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, N, 1] -> vectors [B, N, d]."""
        ids = ids[..., 0] if self.renumbering is None else self.renumbering.old(ids[..., 0])
        with torch.autocast(ids.device.type, enabled=False):
            return self.project_out(nn.functional.embedding(ids, self.codewords))

    def in_use(self) -> torch.Tensor:
        used = self.counts >= UNUSED * self.counts.mean()
        return used if self.renumbering is None else used[self.renumbering.used]

    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> vectors of their codewords float32 [B, N, d] with a gradient, ids int64 [B, N, 1]."""
        require_width(vectors, self.dim)
        with torch.autocast(vectors.device.type, enabled=False):
            return self._quantize(unit(self.project_in(vectors.float()), self.config.normalize_inputs))

    def _quantize(self, vectors: torch.Tensor) -> Quantized:
        """The same for vectors of a codeword's width."""
        config, learning = self.config, self.training
        warming = learning and config.warmup_steps > 0 and int(self.step) < config.warmup_steps
        codewords = self.codewords
        flat = vectors.detach().flatten(0, 1)
        ids = nearest(flat, codewords)
        chosen = nn.functional.embedding(ids, codewords).view_as(vectors)
        losses = self._losses(vectors, chosen, codewords, warming)
        usage = count_by_code(ids, self.size)
        if warming:
            self._passed.append(flat)
            passed = unit(vectors, config.normalize)
        else:
            passed = GRADIENTS[config.gradient](vectors, chosen)
            if learning:
                self.collect(flat, ids, usage)
        if self.renumbering is not None:
            ids = self.renumbering.new(ids.view(vectors.shape[:-1])).flatten()
            usage = count_by_code(ids, self.vocab_size)
        return Quantized(self.project_out(passed), ids.view(*vectors.shape[:-1], 1), losses, usage)

    def _losses(
        self, vectors: torch.Tensor, chosen: torch.Tensor, codewords: torch.Tensor, warming: bool
    ) -> dict[str, torch.Tensor]:
        config = self.config
        weight = 0.0 if warming else 1.0
        pull, learn = (1.0, config.commitment) if config.legacy_beta else (config.commitment, 1.0)
        losses = {}
        if pull:
            losses["commitment"] = weight * pull * (vectors - chosen.detach()).square().mean()
        if not self.averaged:
            # While warming up, a zero gradient: data-parallel training wants one for every parameter.
            losses["codebook"] = 0 * codewords.sum() if warming else learn * (chosen - vectors.detach()).square().mean()
        if config.entropy and not warming:
            hard = config.entropy_targets == "argmax"
            entropy = codebook_entropy(vectors.flatten(0, 1), codewords, config.entropy_temperature, hard)
            losses["entropy"] = config.entropy * entropy
        return losses

    @torch.no_grad()
    def learn(self) -> None:
        """Learn from the step's vectors; or go on with the warm-up."""
        passed, self._passed = self._passed, []
        if passed:
            self._warm_up(torch.cat(passed))
        super().learn()

    def _warm_up(self, vectors: torch.Tensor) -> None:
        """Keeps the vectors of all ranks; the last warm-up step turns the latest into the dictionary."""
        vectors = gather_over_ranks(vectors)
        require_finite(vectors, f" at codebook step {int(self.step)}")
        size = len(self.reservoir)
        latest = vectors[-size:]
        places = (int(self.collected) + torch.arange(len(latest), device=vectors.device)) % size
        self.reservoir[places] = latest
        self.collected += len(latest)
        self.step += 1
        if int(self.step) == self.config.warmup_steps:
            self._begin(len(vectors))

    def _begin(self, per_step: int) -> None:
        """First dictionary, with the counts of a steady state of `per_step` vectors a step."""
        generator = self._generator()
        sample = self.reservoir[: int(self.collected)]
        shares, centres = kmeans(sample, self.size, self.normalize, generator, self._noise(generator))
        centres, shares = from_first_rank(centres), from_first_rank(shares)
        self.begin(centres, shares * per_step / (1 - self.config.decay))


@hookimpl
def cynosure_register(register: Any) -> None:
    register.quantizer("vq", VectorQuantizer)
