"""The decoder of MaskGIT's tokenizer as a base: it draws from the code alone."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import nn

from cynosure import hookimpl
from cynosure.core.records import Shapes
from cynosure_plugins.convnets.grids import GridBase
from cynosure_plugins.convnets.maskgit import Decoder, MaskGITConfig


@final
class MaskGITBase(GridBase):
    """Convolutions only (Chang et al. 2022, appendix). Last convolutions are one a task, everything else is shared."""

    class Config(MaskGITConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__(shapes, config.factor, "base maskgit")
        self.decoder = Decoder(config, shapes.channels, self.latent_dim)

    def draw(self, latents: torch.Tensor, task: str) -> torch.Tensor:
        return self.decoder(latents, task)

    def last_layer(self, task: str) -> nn.Module:
        return self.decoder.conv_out[task]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.base("maskgit", MaskGITBase)
