"""Vector quantisation with one codebook: UViM's discounted totals, VQ-VAE's moving averages, or plain gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import nn

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Quantizer
from cynosure.core.records import Quantized
from cynosure.errors import CheckpointError, CynosureError, TrainingError
from cynosure_plugins.quantizers.codebook import (
    gather_over_ranks,
    kmeans,
    nearest,
    split,
    sum_by_code,
    sum_over_ranks,
    unit,
)

RESERVOIR = 4
"""Encoder outputs kept for the first dictionary, per codeword."""
SMALLEST_COUNT = 1e-6


@final
class VectorQuantizer(Quantizer):
    """Replaces every vector by its nearest codeword; the gradient passes straight through.

    The state is two discounted totals, `counts` [K] and `sums` [K, d]; a codeword is their quotient (Kolesnikov et al.
    2022, UViM; the moving averages of van den Oord et al. 2017, appendix A.1, are these times 1 - decay). In training
    mode every forward first decides with the old codewords, then decays the totals and adds the batch (of all ranks).
    So a forward must run once per batch: gradient checkpointing around a quantizer would count every batch twice.
    Entries whose count falls below `min_count` are replaced by splitting the most used ones. The noise of the splits
    depends on `seed` and the `step` buffer only, so replicas stay equal and a resumed run repeats the original.

    Raises TrainingError in training mode on vectors that are not finite, before any state changes.
    """

    class Config(PartConfig):
        vocab_size: int = Field(4096, ge=1, description="K, codewords in the codebook")
        dim: int = Field(768, ge=1, description="width of a codeword")
        update: Literal["totals", "ema", "gradient"] = Field(
            "totals",
            description="how codewords learn: totals (UViM), ema (VQ-VAE: totals with Laplace smoothing), or gradient",
        )
        decay: float = Field(0.995, ge=0, lt=1, description="factor on the totals before a batch is added")
        min_count: float = Field(0.1, ge=0, description="codewords counted less are replaced; 0 never replaces")
        split_noise: float = Field(0.001, ge=0, description="relative size of the noise on a copied codeword")
        normalize: bool = Field(True, description="codewords have length 1")
        commitment: float = Field(0.0, ge=0, description="weight of the pull of vectors to their codewords")
        warmup_steps: int = Field(
            0,
            ge=0,
            description="training steps that pass vectors unquantised, then k-means makes the dictionary;"
            " short trainings collapse to a few codes without them",
        )
        seed: int = Field(0, ge=0, lt=2**31, description="seeds the splits and the first dictionary after a warm-up")

    counts: torch.Tensor
    sums: torch.Tensor
    step: torch.Tensor
    reservoir: torch.Tensor
    collected: torch.Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vocab_size, self.dim, self.depth = config.vocab_size, config.dim, 1
        dictionary = torch.randn(self.vocab_size, self.dim) * self.vocab_size**-0.5
        if config.update == "gradient":
            self.weight = nn.Parameter(dictionary)
        else:
            self.register_buffer("sums", dictionary)
        self.register_buffer("counts", torch.ones(self.vocab_size))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        if config.warmup_steps:
            self.register_buffer("reservoir", torch.zeros(RESERVOIR * self.vocab_size, self.dim))
            self.register_buffer("collected", torch.zeros((), dtype=torch.int64))

    @property
    def codewords(self) -> torch.Tensor:
        """The codebook [K, d], float32."""
        if self.config.update == "gradient":
            return unit(self.weight.float(), self.config.normalize)
        counts = self.counts
        if self.config.update == "ema":
            total, epsilon = counts.sum(), 1e-5 / (1 - self.config.decay)
            counts = (counts + epsilon) / (total + self.vocab_size * epsilon) * total
        return unit(self.sums / counts[:, None], self.config.normalize)

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, N, 1] -> codewords [B, N, d]."""
        return nn.functional.embedding(ids[..., 0], self.codewords)

    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> codewords float32 [B, N, d] with the vectors' gradient, ids int64 [B, N, 1], losses."""
        if vectors.shape[-1] != self.dim:
            raise CynosureError(f"The codebook holds vectors of width {self.dim}, not {vectors.shape[-1]}: set `dim`.")
        with torch.autocast(vectors.device.type, enabled=False):
            return self._quantize(vectors.float())

    def _quantize(self, vectors: torch.Tensor) -> Quantized:
        config, learning = self.config, self.training
        warming = learning and config.warmup_steps > 0 and int(self.step) < config.warmup_steps
        if learning and config.update == "gradient" and not warming:
            self._replace_unused()  # before this step's graph sees the parameter
        codewords = self.codewords
        flat = vectors.detach().flatten(0, 1)
        ids = nearest(flat, codewords.detach())
        chosen = nn.functional.embedding(ids, codewords).view_as(vectors)
        losses = self._losses(vectors, chosen, warming)
        usage = torch.bincount(ids, minlength=self.vocab_size)
        if warming:
            self._warm_up(flat)
        elif learning:
            self._learn(usage, sum_by_code(flat, ids, self.vocab_size))
        if warming:
            passed = unit(vectors, config.normalize)
        else:
            passed = chosen.detach() + (vectors - vectors.detach())  # exactly the codeword: the bracket is zero
        return Quantized(passed, ids.view(*vectors.shape[:-1], 1), losses, usage)

    def _losses(self, vectors: torch.Tensor, chosen: torch.Tensor, warming: bool) -> dict[str, torch.Tensor]:
        weight = 0.0 if warming else 1.0
        losses = {}
        if self.config.commitment:
            losses["commitment"] = weight * self.config.commitment * (vectors - chosen.detach()).square().mean()
        if self.config.update == "gradient":
            # While warming up, a zero gradient: data-parallel training wants one for every parameter.
            losses["codebook"] = 0 * self.weight.sum() if warming else (chosen - vectors.detach()).square().mean()
        return losses

    @torch.no_grad()
    def _learn(self, counts: torch.Tensor, sums: torch.Tensor) -> None:
        counts, sums = sum_over_ranks(counts.float(), sums)
        self._check_finite(sums)
        # An entry that is never replaced stops decaying in time, else its codeword would end as 0 / 0.
        decay = torch.where(self.counts > SMALLEST_COUNT, self.config.decay, 1.0)
        self.counts.mul_(decay).add_(counts)
        self.step += 1
        if self.config.update != "gradient":
            self.sums.mul_(decay[:, None]).add_(sums)
            self._replace_unused()

    @torch.no_grad()
    def _replace_unused(self) -> None:
        if self.config.min_count == 0 or float(self.counts.min()) >= self.config.min_count:
            return
        averaged = self.config.update != "gradient"
        table = self.sums if averaged else self.weight
        counts, rows = self.counts.cpu(), table.detach().cpu()  # a sequential loop: never on an accelerator
        split(counts.numpy(), rows.numpy(), self.config.min_count, self._noise(self._generator()), halve=averaged)
        self.counts.copy_(counts)
        table.copy_(rows)

    @torch.no_grad()
    def _warm_up(self, vectors: torch.Tensor) -> None:
        """Collects the vectors of all ranks; the last warm-up step turns the latest into the dictionary."""
        vectors = gather_over_ranks(vectors)
        self._check_finite(vectors)
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
        shares, centres = kmeans(sample, self.vocab_size, self.config.normalize, generator, self._noise(generator))
        self.counts.copy_(shares * per_step / (1 - self.config.decay))
        if self.config.update == "gradient":
            self.weight.copy_(centres)
        else:
            self.sums.copy_(centres * self.counts[:, None])

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed((self.config.seed << 32) + int(self.step))

    def _noise(self, generator: torch.Generator) -> Callable[[], np.ndarray]:
        size = self.config.split_noise

        def draw() -> np.ndarray:
            return (1 + size * (2 * torch.rand(self.dim, generator=generator) - 1)).numpy()

        return draw

    def _check_finite(self, vectors: torch.Tensor) -> None:
        if not bool(vectors.sum().isfinite()):
            raise TrainingError(
                f"The vectors to quantise at codebook step {int(self.step)} are not finite: "
                "lower the learning rate or clip the gradients, then resume from the last checkpoint."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        held = state_dict.get(f"{prefix}sums", state_dict.get(f"{prefix}weight"))
        if held is not None and tuple(held.shape) != (self.vocab_size, self.dim):
            raise CheckpointError(
                f"The checkpoint holds {held.shape[0]} codewords of width {held.shape[1]}, this model "
                f"{self.vocab_size} of width {self.dim}: give the quantizer the checkpoint's `vocab_size` and `dim`."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.quantizer("vq", VectorQuantizer)
