"""A plain ViT as the image encoder of a prior, as UViM's language model has it (no class token)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.blocks import Transformer, patch_embedding, positions, to_tokens, token_grid
from cynosure.core.contracts import Encoder, PartConfig
from cynosure.core.records import Shapes


@final
class ViTEncoder(Encoder):
    """Image [B, 3, H, W] -> one vector a patch, [B, N, d] (Kolesnikov et al. 2022, section 2.4: ViT-L/16)."""

    class Config(PartConfig):
        patch: int = Field(16, ge=1, description="pixels on the side of a patch")
        dim: int = Field(1024, ge=1, description="width of the transformer")
        depth: int = Field(24, ge=0, description="transformer blocks")
        heads: int = Field(16, ge=1)
        mlp_dim: int = Field(4096, ge=1)

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.dim = config.dim
        grid = token_grid(shapes.image_size, config.patch, "encoder vit")
        self.image_stem = patch_embedding(3, config.dim, config.patch)
        self.positions = positions(grid[0] * grid[1], config.dim)
        self.transformer = Transformer(config.dim, config.depth, config.heads, config.mlp_dim)

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.transformer(to_tokens(self.image_stem(inputs["image"])) + self.positions)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.encoder("vit", ViTEncoder)
