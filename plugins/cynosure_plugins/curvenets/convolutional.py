"""The convolutional networks that STAR is compared with: Zero-DCE (Guo et al. 2020), which STAR's authors call DCE-Net,
their pooled version of it, and Zero-DCE++ (Li et al. 2021).

Shapes: B batch, C maps, d width, H W pixels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from cynosure_plugins.curvenets.net import CurveNet, resize_corners


class ZeroDCENet(CurveNet):
    """Seven convolutions of one width; the last three also see what the first three wrote."""

    def __init__(self, width: int, maps: int) -> None:
        super().__init__()
        inputs = (3, width, width, width, 2 * width, 2 * width, 2 * width)
        outputs = (*[width] * 6, maps)
        for number, sizes in enumerate(zip(inputs, outputs, strict=True), 1):
            self.add_module(f"e_conv{number}", self.layer(*sizes))

    def layer(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 3, padding=1)

    def down(self, x: torch.Tensor) -> torch.Tensor:
        """What becomes of the maps after each of the first three layers."""
        return x

    def up(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """What becomes of the maps after the fifth and the sixth layer, beside which `like` stands."""
        return x

    def maps(self, picture: torch.Tensor) -> torch.Tensor:
        def layer(number: int, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.get_submodule(f"e_conv{number}")(x))

        first = self.down(layer(1, picture))
        second = self.down(layer(2, first))
        third = self.down(layer(3, second))
        fifth = layer(5, torch.cat([third, layer(4, third)], dim=1))
        sixth = layer(6, torch.cat([second, self.up(fifth, second)], dim=1))
        return self.get_submodule("e_conv7")(torch.cat([first, self.up(sixth, first)], dim=1))


class PooledDCENet(ZeroDCENet):
    """DCE-Net-Pool: every one of the first three layers halves the resolution, every one of the last three doubles it.

    Sizes that do not divide by 8 are taken too.
    """

    def down(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 2, ceil_mode=True)

    def up(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return resize_corners(x, like.shape[2:])


class SeparableConv(nn.Module):
    """A 3 x 3 convolution of every channel alone, then a 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depth_conv = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
        self.point_conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.point_conv(self.depth_conv(x))


class ZeroDCEppNet(ZeroDCENet):
    """Separable convolutions, on the picture reduced by `scale` (bilinear, not averaged); its curves are enlarged."""

    def __init__(self, width: int, maps: int, scale: int) -> None:
        self.scale = scale
        super().__init__(width, maps)

    def layer(self, inputs: int, outputs: int) -> nn.Module:
        return SeparableConv(inputs, outputs)

    def maps(self, picture: torch.Tensor) -> torch.Tensor:
        size = [max(1, n // self.scale) for n in picture.shape[2:]]
        return super().maps(F.interpolate(picture, size=size, mode="bilinear", align_corners=False))

    def curves(self, maps: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
        return resize_corners(torch.tanh(maps), size)
