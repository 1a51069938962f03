"""The image tokenizer of ViT-VQGAN, which Parti uses too."""

from __future__ import annotations

from typing import Any, final

import torch
from pydantic import Field
from torch import nn

from cynosure import hookimpl
from cynosure.core.blocks import Shape, Transformer, patch_embedding, positions, to_tokens, token_grid
from cynosure.core.contracts import PartConfig, Quantizer
from cynosure.core.records import Shapes
from cynosure_plugins.convnets.grids import GridTokenizer


class ViTVQGANConfig(PartConfig):
    """The sizes of an encoder, or of a decoder."""

    patch: int = Field(8, ge=1, description="pixels on the side of a patch, which one vector stands for")
    dim: int = Field(512, ge=1, description="width of the transformer")
    depth: int = Field(8, ge=0, description="transformer blocks")
    heads: int = Field(8, ge=1)
    mlp_dim: int = Field(2048, ge=1, description="hidden width of the blocks' MLPs and of the one after them")


@final
class ViTVQGANTokenizer(GridTokenizer):
    """Patches, a transformer, and an MLP with tanh to the width of the quantizer (Yu et al. 2021, ViT-VQGAN, section
    3.1). Patch embeddings are one a task, everything else is shared. It reads the answer only.

    The published encoders and decoders are those of 256 x 256 pixels with patch 8:

    | size  | dim  | depth | heads | mlp_dim | encoder, measured | published |
    | ----- | ---- | ----- | ----- | ------- | ----------------- | --------- |
    | small | 512  | 8     | 8     | 2048    | 27.9 M            | 32 M      |
    | base  | 768  | 12    | 12    | 3072    | 90.7 M            | 91 M      |
    | large | 1280 | 32    | 16    | 5120    | 644.4 M           | 599 M     |

    with quantizer `vq`, `vocab_size: 8192, code_dim: 32, normalize: true, normalize_inputs: true, update: gradient,
    commitment: 0.25, min_count: 0`, its `dim` that of the encoder. The papers do not say what they count; Parti calls
    the small model 30 M. Raises ValueError for an image size that is not a multiple of `patch`.
    """

    class Config(ViTVQGANConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes, quantizer: Quantizer) -> None:
        grid = token_grid(shapes.image_size, config.patch, "tokenizer vit_vqgan")
        super().__init__(shapes, quantizer, config.patch, "tokenizer vit_vqgan")
        self.config = config
        self.stems = nn.ModuleDict(
            {t: patch_embedding(c, config.dim, config.patch) for t, c in shapes.channels.items()}
        )
        self.positions = positions(grid[0] * grid[1], config.dim)
        self.transformer = Transformer(config.dim, config.depth, config.heads, config.mlp_dim)
        self.hidden = tanh_layer(config.dim, config.mlp_dim)
        self.head = lecun_normal(nn.Linear(config.mlp_dim, self.latent_dim))

    def published_shapes(self) -> dict[str, Shape]:
        return {f"stems.{task}.weight": (self.config.dim, -1, self.config.patch**2) for task in self.stems}

    def latents(self, targets: torch.Tensor, task: str) -> torch.Tensor:
        x = to_tokens(self.stems[task](targets)) + self.positions
        return self.head(self.hidden(self.transformer(x)))


def tanh_layer(dim: int, hidden: int) -> nn.Sequential:
    """The first layer of the MLP that ends encoder and decoder, with its tanh."""
    return nn.Sequential(lecun_normal(nn.Linear(dim, hidden)), nn.Tanh())


def lecun_normal(layer: nn.Linear) -> nn.Linear:
    """The layer with weights that keep the size of what it reads, and zero bias."""
    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


@hookimpl
def cynosure_register(register: Any) -> None:
    register.tokenizer("vit_vqgan", ViTVQGANTokenizer)
