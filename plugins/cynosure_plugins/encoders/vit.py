"""A plain ViT as the image encoder of a prior, as UViM's language model has it (no class token)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.blocks import Transformer, patch_embedding, positions, to_tokens, token_grid
from cynosure.core.contracts import Encoder, PartConfig
from cynosure.core.initial import initial_weights_wanted
from cynosure.core.records import Shapes
from cynosure_plugins.encoders.vit_weights import read_weights


@final
class ViTEncoder(Encoder):
    """Image [B, 3, H, W] -> one vector a patch, [B, N, d] (Kolesnikov et al. 2022, section 2.4: ViT-L/16).

    Raises CheckpointError for `weights` that cannot be read or are of a ViT of other sizes; the picture's may differ.
    """

    class Config(PartConfig):
        patch: int = Field(16, ge=1, description="pixels on the side of a patch")
        dim: int = Field(1024, ge=1, description="width of the transformer")
        depth: int = Field(24, ge=0, description="transformer blocks")
        heads: int = Field(16, ge=1)
        mlp_dim: int = Field(4096, ge=1)
        weights: Path | None = Field(
            None,
            description="published ViT to start from: Google's .npz (UViM: L_16-i21k of AugReg) or timm's safetensors",
        )

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.grid = token_grid(shapes.image_size, config.patch, "encoder vit")
        self.image_stem = patch_embedding(3, config.dim, config.patch)
        self.positions = positions(self.grid[0] * self.grid[1], config.dim)
        self.transformer = Transformer(config.dim, config.depth, config.heads, config.mlp_dim)
        self.starts_trained = config.weights is not None
        if config.weights and initial_weights_wanted():
            self.load_state_dict(read_weights(config.weights.expanduser(), self))

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.transformer(to_tokens(self.image_stem(inputs["image"])) + self.positions)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.encoder("vit", ViTEncoder)
