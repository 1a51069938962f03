"""Encoder and decoder of MaskGIT's tokenizer (Chang et al. 2022, as the official code has them): no attention.

First and last layers that touch the answer are one a task. Pictures in [-1, 1] become [0, 1] inside, and back.
Shapes: B batch, C channels, H W pixels, d latent width, f = 2 ** (levels - 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cynosure.core.blocks import channels_last
from cynosure_plugins.convnets.layers import LevelsConfig, Upsample, conv3, norm


class MaskGITConfig(LevelsConfig):
    """Sizes of the encoder, or of the decoder that mirrors it; the defaults are those of the ImageNet models."""

    blocks: int = Field(2, ge=1, description="residual blocks a level, and once more at the coarsest resolution")
    shortcut: Literal["output", "input"] = Field(
        "output",
        description="what a block adds where widths differ: its own output, as published, or its input, with which it"
        " learns faster",
    )


class ResidualBlock(nn.Module):
    """[B, in, H, W] -> [B, out, H, W], without biases.

    Where widths differ the published shortcut reads the block's own output y, not its input: the result is y + W y and
    the input goes no further. The released weights are trained so.
    """

    def __init__(self, inputs: int, outputs: int, config: MaskGITConfig) -> None:
        super().__init__()
        self.norm1 = norm(inputs, config.norm_groups)
        self.conv1 = conv3(inputs, outputs, bias=False)
        self.norm2 = norm(outputs, config.norm_groups)
        self.conv2 = conv3(outputs, outputs, bias=False)
        self.reads_input = config.shortcut == "input"
        read = inputs if self.reads_input else outputs
        self.shortcut = nn.Conv2d(read, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        if self.shortcut is None:
            return y + x
        return y + self.shortcut(x if self.reads_input else y)


def residual_blocks(inputs: int, outputs: int, config: MaskGITConfig) -> list[nn.Module]:
    return [ResidualBlock(outputs if i else inputs, outputs, config) for i in range(config.blocks)]


def _initialize(module: nn.Module) -> None:
    """Flax's defaults: LeCun-normal kernels, biases of 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Encoder(nn.Module):
    """Answers [B, C of the task, H, W] in [-1, 1] -> latents [B, d, H/f, W/f]."""

    def __init__(self, config: MaskGITConfig, tasks: Mapping[str, int], dim: int) -> None:
        super().__init__()
        widths = config.widths
        stems = {task: conv3(channels, config.channels, bias=False) for task, channels in tasks.items()}
        self.conv_in = nn.ModuleDict(stems)
        self.levels = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((config.channels, *widths), widths, strict=False)):
            pool = [nn.AvgPool2d(2)] if i < len(widths) - 1 else []
            self.levels.append(nn.Sequential(*residual_blocks(inputs, outputs, config), *pool))
        self.mid = nn.Sequential(*residual_blocks(widths[-1], widths[-1], config))
        self.norm_out = norm(widths[-1], config.norm_groups)
        self.conv_out = nn.Conv2d(widths[-1], dim, 1)
        _initialize(self)
        channels_last(self)

    def forward(self, x: torch.Tensor, task: str) -> torch.Tensor:
        x = self.conv_in[task]((x + 1) / 2)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents [B, d, h, w] -> raw outputs [B, C of the task, h * f, w * f]; `levels.0` is the coarsest, the first."""

    def __init__(self, config: MaskGITConfig, tasks: Mapping[str, int], dim: int) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.conv_in = conv3(dim, widths[0])
        self.mid = nn.Sequential(*residual_blocks(widths[0], widths[0], config))
        self.levels = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            upsample = [Upsample(outputs)] if i < len(widths) - 1 else []
            self.levels.append(nn.Sequential(*residual_blocks(inputs, outputs, config), *upsample))
        self.norm_out = norm(widths[-1], config.norm_groups)
        self.conv_out = nn.ModuleDict({task: conv3(widths[-1], channels) for task, channels in tasks.items()})
        _initialize(self)
        channels_last(self)

    def forward(self, x: torch.Tensor, task: str) -> torch.Tensor:
        x = self.mid(self.conv_in(x))
        for level in self.levels:
            x = level(x)
        return self.conv_out[task](F.silu(self.norm_out(x))) * 2 - 1
