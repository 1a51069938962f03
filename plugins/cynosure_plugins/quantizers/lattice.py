"""Quantisers without a codebook: every number of a vector is rounded by itself, and ids count the combinations.

Shapes: B batch, N vectors, d width, D depth, K vocabulary.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch

from cynosure.core.contracts import Quantizer
from cynosure.core.records import Quantized, Segment
from cynosure.errors import CynosureError
from cynosure_plugins.quantizers.codebook import Watch, count_by_code, require_width
from cynosure_plugins.quantizers.gradients import straight_through

LARGEST_VOCABULARY = 1 << 20
"""Codes that are counted, and that a prior would need logits for."""


class Lattice(Quantizer):
    """Rounds vectors number by number: `bound`, then `digits`, whose `values` are what passes on.

    An id counts the combinations of digits, the first digit counting least: id = digit_0 + L_0 · digit_1 + L_0 · L_1 ·
    digit_2 + ... With `groups` D > 1, D runs of neighbouring dimensions have an id each; where they do not share evenly
    the first runs are one longer. Ids are computed in int64, never by floating-point sums, so they are exact at any
    size and precision. No table of codewords exists.
    """

    level: torch.Tensor
    place: torch.Tensor
    group: torch.Tensor

    def __init__(self, levels: Sequence[int], groups: int) -> None:
        super().__init__()
        if groups > len(levels):
            raise CynosureError(f"{groups} groups cannot share {len(levels)} dimensions: lower `groups`.")
        runs = torch.tensor(levels).tensor_split(groups)
        self.lengths = [len(run) for run in runs]
        self.sizes = tuple(math.prod(run.tolist()) for run in runs)
        if max(self.sizes) > LARGEST_VOCABULARY:
            raise CynosureError(
                f"A vocabulary of {max(self.sizes)} codes is more than {LARGEST_VOCABULARY}: raise `groups`, which "
                "writes several smaller codes a vector."
            )
        self.vocab_size, self.dim, self.depth = max(self.sizes), len(levels), groups
        self.register_buffer("level", torch.cat(runs), persistent=False)
        self.register_buffer("place", torch.cat([run.cumprod(0) // run for run in runs]), persistent=False)
        self.register_buffer(
            "group", torch.arange(groups).repeat_interleave(torch.tensor(self.lengths)), persistent=False
        )
        self._watch = Watch()

    @abstractmethod
    def bound(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors float32 [B, N, d] -> the same near the values of the lattice, differentiable."""

    @abstractmethod
    def digits(self, bounded: torch.Tensor) -> torch.Tensor:
        """Bounded vectors -> int64 [B, N, d], each in [0, its level)."""

    @abstractmethod
    def values(self, digits: torch.Tensor) -> torch.Tensor:
        """Digits int64 [B, N, d] -> float32 [B, N, d]."""

    def losses(self, bounded: torch.Tensor, values: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Named scalar losses of bounded vectors and the values they became."""
        return {}

    def segments(self, positions: int) -> tuple[Segment, ...]:
        sizes = self.sizes if len(set(self.sizes)) > 1 else ()
        return (Segment("codes", positions, self.depth, self.vocab_size, sizes),)

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, N, D] -> vectors [B, N, d]."""
        return self.values(ids[..., self.group] // self.place % self.level)

    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> values of the lattice float32 [B, N, d] with a gradient, ids int64 [B, N, D], losses."""
        require_width(vectors, self.dim)
        with torch.autocast(vectors.device.type, enabled=False):
            bounded = self.bound(vectors.float())
            if self.training:
                self._watch.see(vectors.float())  # what bounds them makes infinite ones finite
            digits = self.digits(bounded.detach())
            values = self.values(digits)
            ids = torch.stack([run.sum(-1) for run in (digits * self.place).split(self.lengths, dim=-1)], dim=-1)
            usage = count_by_code(ids.flatten(), self.vocab_size)
            return Quantized(straight_through(bounded, values), ids, self.losses(bounded, values), usage)

    def learn(self) -> None:
        """There is nothing to learn; raises TrainingError when the vectors of the step were not finite."""
        self._watch.end_step()
