"""The decoder of VQGAN and RQ-VAE as a base: it draws from the code alone."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import nn

from cynosure import hookimpl
from cynosure.core.records import Shapes
from cynosure_plugins.convnets.grids import GridBase
from cynosure_plugins.convnets.vqgan import Decoder, VQGANConfig


@final
class VQGANBase(GridBase):
    """One linear layer from the width of the codes, attention at the coarsest level, convolutions (Esser et al. 2021,
    section 3.1). Last convolutions are one a task, everything else is shared."""

    class Config(VQGANConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__(shapes, config.factor, "base vqgan", config.fold)
        self.post_quant_conv = nn.Linear(self.latent_dim, config.z_channels)
        self.decoder = Decoder(config, shapes.channels)

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        return self.post_quant_conv(latents)

    def draw(self, latents: torch.Tensor, task: str) -> torch.Tensor:
        return self.decoder(latents, task)

    def last_layer(self, task: str) -> nn.Module:
        return self.decoder.conv_out[task]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.base("vqgan", VQGANBase)
