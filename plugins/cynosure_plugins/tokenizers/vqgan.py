"""The image tokenizer of VQGAN; with quantizer `gumbel` its Gumbel variant, with `rq` that of RQ-VAE."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import nn

from cynosure import hookimpl
from cynosure.core.blocks import to_tokens
from cynosure.core.contracts import Quantizer
from cynosure.core.records import Shapes
from cynosure_plugins.convnets.grids import GridTokenizer
from cynosure_plugins.convnets.vqgan import Encoder, VQGANConfig


@final
class VQGANTokenizer(GridTokenizer):
    """Convolutions, attention at the coarsest level, one linear layer to the width of the quantizer (Esser et al. 2021,
    section 3.1; Lee et al. 2022, section 3.1). First convolutions are one a task, everything else is shared.

    The published models by `quantizer`: VQGAN `vq` with the options that its documentation names, GumbelVQ `gumbel`,
    RQ-VAE `rq` with `multipliers: [1, 1, 2, 2, 4, 4]` and `attention: [5]`.
    """

    class Config(VQGANConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes, quantizer: Quantizer) -> None:
        super().__init__(shapes, quantizer, config.factor, "tokenizer vqgan", config.fold)
        self.encoder = Encoder(config, shapes.channels)
        self.quant_conv = nn.Linear(config.z_channels, self.latent_dim)

    def latents(self, targets: torch.Tensor, task: str) -> torch.Tensor:
        return self.quant_conv(to_tokens(self.encoder(targets, task)))


@hookimpl
def cynosure_register(register: Any) -> None:
    register.tokenizer("vqgan", VQGANTokenizer)
