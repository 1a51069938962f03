"""Multi-scale residual quantisation: code grids from one code to full size, each naming what coarser ones left over.

Shapes: B batch, N = s² vectors of the last scale s, L codes of all scales, d width, K vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.contracts import Quantizer
from cynosure.core.records import Quantized, Segment
from cynosure.errors import CynosureError
from cynosure_plugins.quantizers.codebook import Search, count_by_code, require_width
from cynosure_plugins.quantizers.gradients import straight_through
from cynosure_plugins.quantizers.learning import Codebook, CodebookConfig, Update

SMOOTHING = 0.5
"""Share of the convolution in what a scale adds; the rest is its codewords as they are."""


@final
class MultiscaleQuantizer(Codebook, Quantizer):
    """The tokenizer of VAR (Tian et al. 2024, section 3.2, algorithms 1 and 2).

    A scale s takes the residual grid down to s x s by area, the nearest codeword of each cell, these back up to full
    size by bicubic interpolation, and smooths them by one of a few 3 x 3 convolutions shared between neighbouring
    scales; what remains goes on to the next scale. The loss of a scale is the squared error of the sum so far, for the
    codewords and, times `commitment`, for the vectors; the mean over scales counts. Codes are ordered by scale, each
    scale row by row: one segment of s² codes a scale.

    A next-scale prior reads `partial`: what the codes of coarser scales say about the cells of the next one.
    """

    class Config(CodebookConfig):
        vocab_size: int = Field(4096, ge=1, description="K, codewords in the codebook")
        dim: int = Field(32, ge=1, description="d, width of the vectors")
        scales: tuple[PositiveInt, ...] = Field(
            (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
            min_length=1,
            description="rows (and columns) of the code grids, growing; the last squared is the number of vectors",
        )
        convolutions: int = Field(4, ge=0, description="smoothing convolutions that the scales share; 0 for none")
        update: Update = Field(
            "gradient",
            description="how codewords learn: gradient (VAR), totals (discounted sums), ema (with Laplace smoothing),"
            " or simvq (frozen random codewords times one linear layer learnt by gradient)",
        )
        commitment: float = Field(0.25, ge=0, description="weight of the pull of vectors to the sums of codewords")

        @field_validator("scales")
        @classmethod
        def _grow(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
            if list(scales) != sorted(set(scales)):
                raise ValueError(f"scales must grow, as in 1, 2, 4; not {', '.join(map(str, scales))}")
            return scales

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.dim)
        self.dim, self.depth, self.vocab_size = config.dim, 1, config.vocab_size
        self.scales, self.side = config.scales, config.scales[-1]
        self.positions = self.side**2
        shared = min(config.convolutions, len(self.scales))
        self.smooth = nn.ModuleList(nn.Conv2d(self.dim, self.dim, 3, padding=1) for _ in range(shared))
        self.smoothed_by = _closest(len(self.scales), shared) if shared else []
        if len(set(self.smoothed_by)) < shared:
            raise ValueError(
                f"{shared} convolutions for {len(self.scales)} scales leave one that smooths none: "
                f"set convolutions: {len(set(self.smoothed_by))}"
            )

    def segments(self, positions: int) -> tuple[Segment, ...]:
        if positions != self.positions:
            raise CynosureError(
                f"The quantizer's last scale has {self.side} x {self.side} vectors, the tokenizer writes {positions}: "
                "let `scales` end with the side of the tokenizer's grid, which must be square."
            )
        return tuple(Segment(f"{scale}x{scale}", scale**2, 1, self.vocab_size) for scale in self.scales)

    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> their approximation float32 [B, N, d] with a gradient, ids int64 [B, L, 1], losses."""
        require_width(vectors, self.dim)
        self.segments(vectors.shape[1])
        with torch.autocast(vectors.device.type, enabled=False):
            return self._quantize(vectors.float())

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, L, 1] -> vectors [B, N, d]."""
        *_, total = self._sums(ids, len(self.scales))
        return _rows(total)

    def partial(self, ids: torch.Tensor, scale: int) -> torch.Tensor:
        """What the codes of coarser scales say at scale number `scale` (0 first): [B, s², d] with s its side.

        Ids int64 [B, at least the codes of the scales before, 1]; later ones are ignored. Zeros at scale 0, which
        nothing is known of; else the sum of the coarser scales, taken down by area, as VAR feeds its transformer.
        """
        *_, total = self._sums(ids, scale)
        return _rows(self._down(total, self.scales[scale]))

    def partials(self, ids: torch.Tensor) -> torch.Tensor:
        """`partial` of every scale, one after another: ids int64 [B, L, 1] -> [B, L, d], what a prior learns from."""
        sums = self._sums(ids, len(self.scales) - 1)
        return torch.cat([_rows(self._down(t, side)) for side, t in zip(self.scales, sums, strict=True)], dim=1)

    def _sums(self, ids: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
        """The sums [B, d, s, s] of the first 0, 1, ... `count` scales."""
        codewords, start = self.codewords, 0
        total = codewords.new_zeros(len(ids), self.dim, self.side, self.side)
        yield total
        for number, side in enumerate(self.scales[:count]):
            total = total + self._part(F.embedding(ids[:, start : start + side**2, 0], codewords), number)
            start += side**2
            yield total

    def _part(self, chosen: torch.Tensor, number: int) -> torch.Tensor:
        """What codewords [B, s², d] of a scale add to the sum, [B, d, S, S]."""
        grid = chosen.transpose(1, 2).unflatten(2, (self.scales[number],) * 2)
        if self.scales[number] != self.side:
            grid = F.interpolate(grid, size=(self.side, self.side), mode="bicubic")
        if not self.smooth:
            return grid
        with torch.autocast(grid.device.type, enabled=False):
            return (1 - SMOOTHING) * grid + SMOOTHING * self.smooth[self.smoothed_by[number]](grid)

    def _down(self, grid: torch.Tensor, side: int) -> torch.Tensor:
        return grid if side == self.side else F.interpolate(grid, size=(side, side), mode="area")

    def _quantize(self, vectors: torch.Tensor) -> Quantized:
        codewords = self.codewords
        search = Search(codewords)
        target = vectors.transpose(1, 2).unflatten(2, (self.side, self.side))
        residual, total = target.detach(), torch.zeros_like(target)
        errors: list[torch.Tensor] = []
        ids: list[torch.Tensor] = []
        usage = torch.zeros(self.vocab_size, dtype=torch.int64, device=vectors.device)
        for number, side in enumerate(self.scales):
            searched = _rows(self._down(residual, side)).flatten(0, 1)
            found = search(searched)
            count = count_by_code(found, self.vocab_size)
            if self.training:
                self.collect(searched, found, count)
            part = self._part(F.embedding(found.view(len(vectors), -1), codewords), number)
            residual, total = residual - part.detach(), total + part
            errors.append((total - target.detach()).square().mean())
            errors.append(self.config.commitment * (target - total.detach()).square().mean())
            ids.append(found.view(len(vectors), -1))
            usage += count
        losses = {}
        if self.smooth or not self.averaged:
            losses["codebook"] = torch.stack(errors[::2]).mean()
        if self.config.commitment:
            losses["commitment"] = torch.stack(errors[1::2]).mean()
        return Quantized(straight_through(vectors, _rows(total)), torch.cat(ids, dim=1)[..., None], losses, usage)


def _closest(scales: int, convolutions: int) -> list[int]:
    """Which convolution smooths each scale: the closest, both spread over [0, 1] as in the published code.

    In float64 as there: of ten scales and four convolutions two lie in the middle between two.
    """
    margin = 1 / (3 if convolutions == 4 else 2) / convolutions
    places = np.linspace(margin, 1 - margin, convolutions)
    return [int(np.abs(places - number / max(1, scales - 1)).argmin()) for number in range(scales)]


def _rows(grid: torch.Tensor) -> torch.Tensor:
    """A grid [B, d, s, s] as vectors [B, s², d]."""
    return grid.flatten(2).transpose(1, 2)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.quantizer("multiscale", MultiscaleQuantizer)
