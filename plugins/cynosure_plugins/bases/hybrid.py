"""A base model for laptops: convolutional stem, transformer trunk, U-Net head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.blocks import channels_last, zero_initialized
from cynosure.core.contracts import Base
from cynosure.core.records import Shapes
from cynosure.core.trunk import GROUPS, HybridTrunk, Stem, TrunkConfig


class Decoder(nn.Module):
    """The trunk's features at 1/2, 1/4 and 1/8 of the image, the last [B, d, H/8, W/8] -> [B, s0, H/2, W/2].

    To those at 1/2 and 1/4 it adds what its own stem sees in the image [B, 3, H, W].
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        half, quarter = config.stem
        self.stem = Stem(config.stem)
        self.up_quarter = nn.Conv2d(config.dim, quarter * 4, 1)
        self.mix_quarter = nn.Conv2d(2 * quarter, quarter, 3, padding=1)
        self.norm_quarter = nn.GroupNorm(GROUPS, quarter)
        self.up_half = nn.Conv2d(quarter, half * 4, 1)
        self.mix_half = nn.Conv2d(2 * half, half, 3, padding=1)
        self.norm_half = nn.GroupNorm(GROUPS, half)

    def forward(
        self, image: torch.Tensor, half: torch.Tensor, quarter: torch.Tensor, eighth: torch.Tensor
    ) -> torch.Tensor:
        own_half, own_quarter = self.stem(image)
        x = F.pixel_shuffle(self.up_quarter(eighth), 2)
        x = F.gelu(self.norm_quarter(self.mix_quarter(torch.cat([x, quarter + own_quarter], 1))))
        x = F.pixel_shuffle(self.up_half(x), 2)
        return F.gelu(self.norm_half(self.mix_half(torch.cat([x, half + own_half], 1))))


@final
class HybridBase(Base):
    """f(x, z) at a fraction of a ViT's cost: the code joins the tokens at 1/8, skips bring back the edges.

    Tasks share the trunk. Each has a decoder of its own, since a shared one is the narrowest place that all tasks would
    have to pass, and in it a stem: what tasks want of the finest details differs most (docs/results.md).
    """

    class Config(TrunkConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.trunk = HybridTrunk(config, shapes.image_size, shapes.channels)
        self.code_grid = shapes.spec.grid if shapes.spec else None
        if shapes.spec and self.code_grid is None:
            raise ValueError(
                "base hybrid adds codes where they stand in the picture: it needs a tokenizer with a code grid"
            )
        self.repeat = (1, 1)
        if shapes.spec and self.code_grid:
            (h, w), (rows, columns) = self.trunk.grid, self.code_grid
            if h % rows or w % columns:
                raise ValueError(f"base hybrid: code grid {self.code_grid} does not divide its token grid {(h, w)}")
            self.repeat = (h // rows, w // columns)
        self.code_stem = (
            nn.Linear(shapes.code_dim, config.dim * self.repeat[0] * self.repeat[1]) if shapes.spec else None
        )
        self.decoders = nn.ModuleDict({t: Decoder(config) for t in shapes.channels})
        heads = {t: zero_initialized(nn.Conv2d(config.stem[0], c * 4, 1)) for t, c in shapes.channels.items()}
        self.heads = nn.ModuleDict(heads)
        channels_last(self)

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        half, quarter, tokens = self.trunk(inputs, task, self._spread(vectors))
        x = self.decoders[task](inputs["image"], half, quarter, self.trunk.as_grid(tokens))
        return F.pixel_shuffle(self.heads[task](x), 2)

    def last_layer(self, task: str) -> nn.Module:
        return self.heads[task]

    def _spread(self, vectors: torch.Tensor | None) -> torch.Tensor | None:
        """Code vectors [B, L, d] -> one vector for each of the tokens that a code position covers, [B, N, d]."""
        if vectors is None or self.code_stem is None or self.code_grid is None:
            return None
        (rows, columns), (r, c) = self.code_grid, self.repeat
        x = self.code_stem(vectors).view(len(vectors), rows, columns, r, c, -1)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(len(vectors), rows * r * columns * c, -1)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.base("hybrid", HybridBase)
