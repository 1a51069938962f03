"""What all networks for curves have in common, and the base model that the published ones are.

Shapes: B batch, C maps, H W pixels, h w rows and columns of the maps, N code positions, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cynosure.core.contracts import Base
from cynosure.core.records import Shapes


def resize_corners(maps: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
    """Maps [B, C, h, w] at another size (H, W), bilinear with aligned corners, as published networks enlarge them."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


class CurveNet(nn.Module, ABC):
    """A published network. Its last layer is linear in `maps`, and `curves` ends it with tanh at the picture's size."""

    @abstractmethod
    def maps(self, picture: torch.Tensor) -> torch.Tensor:
        """Picture [B, 3, H, W] in [0, 1] -> raw maps [B, C, h, w]."""

    def curves(self, maps: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """Raw maps [B, C, h, w] -> curves [B, C, H, W] in [-1, 1]."""
        return torch.tanh(resize_corners(maps, size))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.curves(self.maps(picture), picture.shape[2:])


class CurveBase(Base):
    """A base of one published network a task, `nets.TASK`, whose state dict has the published names.

    Published networks know no codes. Here a code moves every curve by the same everywhere: the maps get a linear
    function of all code vectors added before tanh. Without codes the network is the published one.
    """

    def __init__(self, nets: Mapping[str, CurveNet], shapes: Shapes) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)
        width = shapes.positions * shapes.code_dim
        self.code_stems = nn.ModuleDict(
            {task: nn.Linear(width, channels, bias=False) for task, channels in shapes.channels.items() if width}
        )

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        """inputs['image'] [B, 3, H, W] in [-1, 1] -> curves [B, C, H, W] in [-1, 1]."""
        picture, net = (inputs["image"] + 1) / 2, self.nets[task]
        assert isinstance(net, CurveNet)
        maps = net.maps(picture).float()
        if vectors is not None and self.code_stems:
            maps = maps + self.code_stems[task](vectors.flatten(1)).float()[..., None, None]
        return net.curves(maps, picture.shape[2:])
