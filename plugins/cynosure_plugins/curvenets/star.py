"""STAR's network as it was released (Zhang et al. 2021; zzyfd/STAR-pytorch), in its three variants.

Kept as released: a stem of kernel 2 and stride 3 that reads four of nine pixels, heads narrower than 8, and a table of
positions that nothing reads. Shapes: B batch, C maps, d width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from cynosure_plugins.curvenets.net import CurveNet
from cynosure_plugins.curvenets.transformer import Transformer

Variant = Literal["ori", "half", "sin"]
WIDTHS = {"ori": 16, "half": 8}
GRID = 32
"""Tokens on a side, whatever the picture."""


class _Tokens(CurveNet):
    """A stem, 32 x 32 tokens of what it sees, a transformer."""

    def __init__(self, stem: nn.Conv2d, depth: int, heads: int) -> None:
        super().__init__()
        width = stem.out_channels
        self.e_conv1 = stem
        self.transformer = Transformer(width, depth, heads, hidden=width)

    def pooled(self, picture: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, d, 32, 32]."""
        return F.adaptive_avg_pool2d(F.relu(self.e_conv1(picture)), GRID)

    def long_range(self, pooled: torch.Tensor) -> torch.Tensor:
        """The transformer's tokens as a map [B, d, 32, 32]."""
        tokens = self.transformer(pooled.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, (GRID, GRID))


class StarNet(_Tokens):
    """STAR-DCE-Ori and -Half: transformer and convolution see the same tokens, one convolution joins them.

    `pos_embedding` is a buffer: in the published state dict, but no parameter, because nothing would ever teach it.
    """

    pos_embedding: torch.Tensor

    def __init__(self, width: int, maps: int, depth: int = 1, heads: int = 8) -> None:
        super().__init__(nn.Conv2d(3, width, 2, stride=3, padding=1), depth, heads)
        self.register_buffer("pos_embedding", torch.zeros(1, width, GRID, GRID))
        self.enc_conv = nn.Conv2d(width, width, 3, padding=1)
        self.out_conv = nn.Conv2d(2 * width, maps, 3, padding=1)

    def maps(self, picture: torch.Tensor) -> torch.Tensor:
        pooled = self.pooled(picture)
        return self.out_conv(torch.cat([self.long_range(pooled), self.enc_conv(pooled)], dim=1))


class SingleBranchStarNet(_Tokens):
    """STAR-DCE-Sin: the tokens of one transformer are the maps."""

    def __init__(self, maps: int, depth: int = 1, heads: int = 8) -> None:
        super().__init__(nn.Conv2d(3, maps, 3, stride=2, padding=1), depth, heads)

    def maps(self, picture: torch.Tensor) -> torch.Tensor:
        return self.long_range(self.pooled(picture))


def star_net(variant: Variant, maps: int, depth: int, heads: int) -> CurveNet:
    """A variant that writes so many maps; ValueError where its width does not divide into the heads."""
    if variant == "sin":
        return SingleBranchStarNet(maps, depth, heads)
    return StarNet(WIDTHS[variant], maps, depth, heads)
