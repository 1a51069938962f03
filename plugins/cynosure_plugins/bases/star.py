"""STAR's network for image enhancement as a base: as it was released (`star`) and as we train it (`star_v2`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.blocks import zero_initialized
from cynosure.core.contracts import Base, PartConfig
from cynosure.core.records import Shapes
from cynosure_plugins.curvenets.net import CurveBase
from cynosure_plugins.curvenets.star import Variant, star_net
from cynosure_plugins.curvenets.transformer import Transformer


@final
class Star(CurveBase):
    """The released network (Zhang et al. 2021), which looks at 256 x 256 pixels; one a task, `nets.TASK`.

    Attention is computed fused, everything else as released. Variant 'sin' is as wide as the task has maps.
    """

    class Config(PartConfig):
        variant: Variant = Field("ori", description="STAR-DCE-Ori, the narrower -Half, or -Sin without convolutions")
        depth: int = Field(1, ge=0, description="transformer blocks")
        heads: int = Field(8, ge=1)

    def __init__(self, config: Config, shapes: Shapes) -> None:
        maps = shapes.channels.items()
        super().__init__({t: star_net(config.variant, c, config.depth, config.heads) for t, c in maps}, shapes)


@final
class StarV2(Base):
    """STAR with a stem that reads every pixel, tokens that know where they stand, and any size and aspect.

    Long range: a transformer over tokens. Short range: a convolution beside it. One convolution joins both, and a last
    one a task writes its maps; at first all are 0, which changes no picture. Codes are for the picture as a whole: what
    is joined gets a linear function of all code vectors added. Without codes, or with vectors of 0, nothing is added.
    """

    class Config(PartConfig):
        dim: int = Field(16, ge=1, description="width of tokens")
        depth: int = Field(1, ge=0, description="transformer blocks")
        heads: int = Field(2, ge=1)
        mlp_dim: int = Field(32, ge=1)
        grid: int = Field(32, ge=1, description="tokens on a side of a square picture; others have about as many")

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        dim, self.grid = config.dim, config.grid
        self.stem = nn.Conv2d(3, dim, 3, stride=2, padding=1)
        self.positions = nn.Parameter(0.02 * torch.randn(1, dim, self.grid, self.grid))
        self.transformer = Transformer(dim, config.depth, config.heads, config.mlp_dim, (dim // config.heads) ** -0.5)
        self.short_range = nn.Conv2d(dim, dim, 3, padding=1)
        self.join = nn.Conv2d(2 * dim, dim, 3, padding=1)
        heads = {task: zero_initialized(nn.Conv2d(dim, maps, 1)) for task, maps in shapes.channels.items()}
        self.heads = nn.ModuleDict(heads)
        width = shapes.positions * shapes.code_dim
        self.code_stem = nn.Linear(width, dim, bias=False) if width else None

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        """inputs['image'] [B, 3, H, W] in [-1, 1] of any size -> maps [B, C, H, W] in [-1, 1], smooth over tokens."""
        picture = inputs["image"]
        pooled = F.adaptive_avg_pool2d(F.relu(self.stem(picture)), self.token_grid(*picture.shape[2:]))
        features = self.join(torch.cat([self._long_range(pooled), self.short_range(pooled)], dim=1))
        if vectors is not None and self.code_stem is not None:
            features = features + self.code_stem(vectors.flatten(1))[..., None, None]
        maps = torch.tanh(self.heads[task](F.relu(features)).float())
        return F.interpolate(maps, size=picture.shape[2:], mode="bilinear", align_corners=False)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens: about as wide as high, and about grid² of them."""
        stretch = (height / width) ** 0.5
        return max(1, round(self.grid * stretch)), max(1, round(self.grid / stretch))

    def _long_range(self, pooled: torch.Tensor) -> torch.Tensor:
        """Attention over the tokens [B, d, h, w]."""
        tokens, size = pooled.flatten(2).transpose(1, 2), pooled.shape[2:]
        positions = F.interpolate(self.positions, size=size, mode="bilinear", align_corners=False)
        positions = positions.flatten(2).transpose(1, 2)[0]
        seen = self.transformer(tokens, positions)
        return seen.transpose(1, 2).unflatten(2, size)

    def last_layer(self, task: str) -> nn.Module:
        return self.heads[task]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.base("star", Star)
    register.base("star_v2", StarV2)
