"""The decoder of ViT-VQGAN as a base: it draws from the code alone."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import nn

from cynosure import hookimpl
from cynosure.core.blocks import Shape, Transformer, positions, to_tokens, token_grid, unpatch, zero_initialized
from cynosure.core.records import Shapes
from cynosure_plugins.convnets.grids import GridBase
from cynosure_plugins.tokenizers.vit_vqgan import ViTVQGANConfig, lecun_normal, tanh_layer


@final
class ViTVQGANBase(GridBase):
    """A transformer over code vectors, and an MLP with tanh to the pixels of each patch (Yu et al. 2021, ViT-VQGAN,
    section 3.1), without a bound on them (Yu et al. 2022, Parti, section 2.1). Last layers are one a task, everything
    else is shared.

    The published sizes are those of tokenizer `vit_vqgan`; a large decoder for the codes of a small encoder is the best
    of ViT-VQGAN, and what Parti trains afterwards. Raises ValueError for an image size that is not a multiple of
    `patch`.
    """

    class Config(ViTVQGANConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes) -> None:
        grid = token_grid(shapes.image_size, config.patch, "base vit_vqgan")
        super().__init__(shapes, config.patch, "base vit_vqgan")
        self.config = config
        same = self.latent_dim == config.dim  # vq then holds the published map from narrow codes
        self.stem = nn.Identity() if same else lecun_normal(nn.Linear(self.latent_dim, config.dim))
        self.positions = positions(grid[0] * grid[1], config.dim)
        self.transformer = Transformer(config.dim, config.depth, config.heads, config.mlp_dim)
        self.hidden = tanh_layer(config.dim, config.mlp_dim)
        pixels = config.patch**2
        heads = {t: zero_initialized(nn.Linear(config.mlp_dim, c * pixels)) for t, c in shapes.channels.items()}
        self.heads = nn.ModuleDict(heads)

    def published_shapes(self) -> dict[str, Shape]:
        pixels = self.config.patch**2
        weights: dict[str, Shape] = {f"heads.{task}.weight": (-1, pixels, self.config.mlp_dim) for task in self.heads}
        return weights | {f"heads.{task}.bias": (-1, pixels) for task in self.heads}

    def last_layer(self, task: str) -> nn.Module:
        return self.heads[task]

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        return self.stem(latents)

    def draw(self, latents: torch.Tensor, task: str) -> torch.Tensor:
        x = self.transformer(to_tokens(latents) + self.positions)
        return unpatch(self.heads[task](self.hidden(x)), self.latent_grid, self.config.patch)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.base("vit_vqgan", ViTVQGANBase)
