"""A small image trunk for laptops: convolutions down to a token grid, transformer blocks on top.

Base `hybrid` and encoder `hybrid` share it, so that a prior can start from what the base has learnt.
Shapes: B batch, N tokens, d width, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cynosure.core.blocks import Transformer, channels_last, positions, to_grid, to_tokens, token_grid
from cynosure.core.contracts import PartConfig

STRIDE = 8
GROUPS = 4
"""In how many groups the stem normalises its channels."""
Channels = Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)]


class TrunkConfig(PartConfig):
    """Options of the trunk."""

    dim: int = Field(128, ge=1, description="width of the transformer")
    depth: int = Field(3, ge=0, description="transformer blocks on the 1/8 grid")
    heads: int = Field(4, ge=1)
    mlp_dim: int = Field(512, ge=1)
    stem: tuple[Channels, Channels] = Field((32, 64), description="channels at 1/2 and 1/4 of the image")


class Stem(nn.Module):
    """Image [B, 3, H, W] -> features at 1/2 [B, s0, H/2, W/2] and 1/4 [B, s1, H/4, W/4]."""

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        half, quarter = channels
        self.to_half = nn.Conv2d(12, half, 3, padding=1)
        self.norm_half = nn.GroupNorm(GROUPS, half)
        self.to_quarter = nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        self.norm_quarter = nn.GroupNorm(GROUPS, quarter)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = F.gelu(self.norm_half(self.to_half(F.pixel_unshuffle(image, 2))))
        return half, F.gelu(self.norm_quarter(self.to_quarter(half)))


class HybridTrunk(nn.Module):
    """Image [B, 3, H, W] -> features at 1/2 [B, s0, H/2, W/2] and 1/4 [B, s1, H/4, W/4], tokens [B, N, d] at 1/8."""

    def __init__(self, config: TrunkConfig, image_size: tuple[int, int], tasks: Iterable[str]) -> None:
        super().__init__()
        self.grid = token_grid(image_size, STRIDE, "hybrid trunk")
        self.stem = Stem(config.stem)
        self.patches = nn.Conv2d(config.stem[1], config.dim, 3, stride=2, padding=1)
        self.positions = positions(self.grid[0] * self.grid[1], config.dim)
        names = list(tasks)
        self.tasks = nn.ParameterDict({t: nn.Parameter(torch.zeros(config.dim)) for t in names})
        self.transformer = Transformer(config.dim, config.depth, config.heads, config.mlp_dim, names)
        channels_last(self)

    def forward(
        self, inputs: Mapping[str, Any], task: str, code: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`code` [B, N, d] joins the tokens by addition."""
        half, quarter = self.stem(inputs["image"])
        x = to_tokens(self.patches(quarter)) + self.positions + self.tasks[task]
        return half, quarter, self.transformer(x if code is None else x + code, task)

    def as_grid(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, d] -> [B, d, H/8, W/8]."""
        return to_grid(tokens, self.grid)
