"""The base model of UViM: a ViT over image patches that the code joins by addition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import Field
from torch import nn

from cynosure import hookimpl
from cynosure.core.blocks import (
    Shape,
    Transformer,
    lecun_normal,
    patch_embedding,
    positions,
    to_tokens,
    token_grid,
    unpatch,
    zero_initialized,
)
from cynosure.core.contracts import Base, PartConfig
from cynosure.core.records import Shapes
from cynosure.core.resize import resize_linear


@final
class ViTBase(Base):
    """f of UViM (Kolesnikov et al. 2022, section 2.3): one shared ViT, a linear head a task."""

    class Config(PartConfig):
        patch: int = Field(16, ge=1, description="pixels on the side of a patch")
        dim: int = Field(768, ge=1, description="width of the transformer")
        depth: int = Field(12, ge=0, description="transformer blocks")
        heads: int = Field(12, ge=1)
        mlp_dim: int = Field(3072, ge=1)

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.config = config
        self.grid = token_grid(shapes.image_size, config.patch, "base vit")
        self.code_grid = shapes.spec.grid if shapes.spec else None
        if shapes.spec and self.code_grid is None:
            raise ValueError(
                "base vit adds codes where they stand in the picture: it needs a tokenizer with a code grid"
            )
        self.code_stem = lecun_normal(nn.Linear(shapes.code_dim, config.dim)) if shapes.spec else None
        self.image_stem = patch_embedding(3, config.dim, config.patch)
        self.positions = positions(self.grid[0] * self.grid[1], config.dim)
        self.transformer = Transformer(config.dim, config.depth, config.heads, config.mlp_dim)
        pixels = config.patch**2
        heads = {t: zero_initialized(nn.Linear(config.dim, c * pixels)) for t, c in shapes.channels.items()}
        self.heads = nn.ModuleDict(heads)

    def published_shapes(self) -> dict[str, Shape]:
        pixels = self.config.patch**2
        weights: dict[str, Shape] = {f"heads.{task}.weight": (-1, pixels, self.config.dim) for task in self.heads}
        return weights | {f"heads.{task}.bias": (-1, pixels) for task in self.heads}

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        x = to_tokens(self.image_stem(inputs["image"])) + self.positions
        if vectors is not None and self.code_stem is not None and self.code_grid is not None:
            code = self.code_stem(vectors).unflatten(1, self.code_grid)
            x = x + resize_linear(code, self.grid).flatten(1, 2)
        return unpatch(self.heads[task](self.transformer(x)), self.grid, self.config.patch)

    def last_layer(self, task: str) -> nn.Module:
        return self.heads[task]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.base("vit", ViTBase)
