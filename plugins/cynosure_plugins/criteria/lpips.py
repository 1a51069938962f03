"""LPIPS: how different two pictures look, by the features of a network; or a stand-in without one."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import nn

from cynosure import hookimpl
from cynosure.core.contracts import Criterion, PartConfig
from cynosure.core.records import Shapes
from cynosure_plugins.criteria.pictures import require_pictures
from cynosure_plugins.criteria.vgg import SMALLEST, find_vgg, random_vgg


@final
class LPIPS(Criterion):
    """Perceptual distance (Zhang et al. 2018) of the reconstruction, as VQGAN and RQ-VAE add it to their loss: VGG16,
    five layers, learned heads. Pictures are RGB in [-1, 1].

    The network comes from local files and stays outside the model: no checkpoint holds it, predicting does not read it.

    `network: random` needs no file. It is *not* LPIPS: the same distance by a narrow VGG16 of fixed random weights,
    which has seen no picture, with heads that nobody has fitted to human judgement. It compares colours and local
    structure on five scales; its values are not to be compared with published ones.

    Raises CheckpointError for files that are missing, damaged or of another network.
    """

    class Config(PartConfig):
        weight: NonNegativeFloat = Field(1.0, description="factor on the distance")
        network: Literal["vgg16", "random"] = Field("vgg16", description="random is a stand-in that needs no file")
        weights: str | None = Field(None, description="file of torchvision's VGG16: safetensors or a state dict")
        heads: str | None = Field(None, description="file of LPIPS's heads for VGG, unless `weights` has them too")

        @model_validator(mode="after")
        def _files(self) -> Any:
            if self.network == "vgg16" and not self.weights:
                raise ValueError(
                    "network vgg16 needs `weights`, a file of torchvision's VGG16; network: random is a stand-in"
                )
            if self.network == "random" and (self.weights or self.heads):
                raise ValueError("network random reads no file: take `weights` and `heads` out, or use vgg16")
            return self

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        require_pictures(shapes, "lpips", SMALLEST)
        self.weight = config.weight
        self._vgg = find_vgg(config.weights, config.heads) if config.weights else random_vgg()
        self._device = torch.device("cpu")

    def forward(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        task: str,
        reconstruction: torch.Tensor,
        last: nn.Parameter | None,
    ) -> dict[str, torch.Tensor]:
        if outputs.device != self._device:
            self._vgg, self._device = self._vgg.to(outputs.device), outputs.device
        return {"lpips": self.weight * self._vgg.distances(outputs, targets).mean()}


@hookimpl
def cynosure_register(register: Any) -> None:
    register.criterion("lpips", LPIPS)
