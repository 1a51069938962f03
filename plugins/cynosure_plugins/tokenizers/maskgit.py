"""The image tokenizer of MaskGIT."""

from __future__ import annotations

from typing import Any, final

import torch

from cynosure import hookimpl
from cynosure.core.blocks import to_tokens
from cynosure.core.contracts import Quantizer
from cynosure.core.records import Shapes
from cynosure_plugins.convnets.grids import GridTokenizer
from cynosure_plugins.convnets.maskgit import Encoder, MaskGITConfig


@final
class MaskGITTokenizer(GridTokenizer):
    """Convolutions only (Chang et al. 2022, appendix). First convolutions are one a task, everything else is shared.

    Published with quantizer `vq` and the options that its documentation names.
    """

    class Config(MaskGITConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes, quantizer: Quantizer) -> None:
        super().__init__(shapes, quantizer, config.factor, "tokenizer maskgit")
        self.encoder = Encoder(config, shapes.channels, self.latent_dim)

    def latents(self, targets: torch.Tensor, task: str) -> torch.Tensor:
        return to_tokens(self.encoder(targets, task))


@hookimpl
def cynosure_register(register: Any) -> None:
    register.tokenizer("maskgit", MaskGITTokenizer)
