"""What the convolutional networks have in common: their levels of resolution and their simplest layers.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn
from torch.nn import functional as F

from cynosure.core.contracts import PartConfig

PUBLISHED_GROUPS = 32
NORM_EPS = 1e-6


class LevelsConfig(PartConfig):
    """Widths of the levels of an encoder, or of the decoder that mirrors it; by default of the f16 ImageNet models."""

    channels: int = Field(128, ge=1, description="width at full resolution, times multipliers")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 1, 2, 2, 4), min_length=1, description="width of each level, finest first; each halves the resolution"
    )
    groups: int | None = Field(
        None,
        ge=1,
        description="groups of channels that norms divide; null: 32 as published, or fewer, so that each has 4"
        " channels: a norm takes the mean of a group away, of groups of one channel every colour",
    )

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if uneven := [width for width in (self.channels, *self.widths) if width % self.norm_groups]:
            raise ValueError(f"{self.norm_groups} groups do not divide the width {uneven[0]}; set groups to a divisor")
        return self

    @property
    def norm_groups(self) -> int:
        return self.groups or max(1, min(PUBLISHED_GROUPS, self.channels // 4))

    @property
    def factor(self) -> int:
        """f, pixels on the side of a latent."""
        return 1 << (len(self.multipliers) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of every level, finest first."""
        return tuple(self.channels * m for m in self.multipliers)


def norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=NORM_EPS)


def conv3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbours, then `conv`, [B, C, H, W] -> [B, C, 2H, 2W].

    Both in one transposed convolution. Of the 9 weights that meet the 2 x 2 copies of a pixel, those that meet the same
    pixel are added first: 4 products an output and channel instead of 9, half the time on CPUs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums = F.avg_pool2d(self.conv.weight, 2, stride=1, padding=1, divisor_override=1)
        return F.conv_transpose2d(x, sums.flip(2, 3).transpose(0, 1), self.conv.bias, stride=2, padding=1)
