"""Encoder and decoder of VQGAN (Esser et al. 2021, as taming-transformers has them), which RQ-VAE uses too.

Submodules bear the published names, except that first and last convolutions are one a task and that queries, keys and
values are one layer. Shapes: B batch, C channels, H W pixels, z latent width, f = 2 ** (levels - 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from cynosure.core.blocks import Shape, channels_last, to_grid, to_tokens
from cynosure_plugins.convnets.layers import LevelsConfig, Upsample, conv3, norm


class VQGANConfig(LevelsConfig):
    """Sizes of the encoder, or of the decoder that mirrors it; the defaults are those of the f16 ImageNet models."""

    blocks: int = Field(2, ge=1, description="residual blocks a level; the decoder has one more")
    attention: tuple[int, ...] = Field(
        (4,),
        description="levels (0 is the finest) with attention after every block; the middle always has it. The published"
        " attn_resolutions [16] of 256 pixels are level 4",
    )
    z_channels: int = Field(256, ge=1, description="width of the latents that the convolutions write or read")
    fold: int = Field(1, ge=1, description="side of the square of latents that share a code (RQ-VAE's code_shape)")

    @model_validator(mode="after")
    def _levels(self) -> Any:
        beyond = [level for level in self.attention if not 0 <= level < len(self.multipliers)]
        if beyond:
            raise ValueError(f"attention names levels {beyond}, there are 0 to {len(self.multipliers) - 1}")
        return self


class ResidualBlock(nn.Module):
    """[B, in, H, W] -> [B, out, H, W]; a 1 x 1 convolution of the input is added where widths differ."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = norm(inputs, groups)
        self.conv1 = conv3(inputs, outputs)
        self.norm2 = norm(outputs, groups)
        self.conv2 = conv3(outputs, outputs)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class GridAttention(nn.Module):
    """x + attention of all positions of a grid to each other, one head, [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = norm(channels, groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(to_tokens(self.norm(x)))[:, None].chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + to_grid(self.proj_out(y), (x.shape[2], x.shape[3]))

    def published_shapes(self) -> dict[str, Shape]:
        d = self.proj_out.in_features
        return {"qkv.weight": (3, d, d), "qkv.bias": (3, d)}


class Downsample(nn.Module):
    """Half the resolution by a convolution that sees one zero beyond the right and lower edges."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """Residual blocks, each followed by attention where the level has it, and a change of resolution or none."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool, groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(outputs if i else inputs, outputs, groups) for i in range(blocks))
        self.attn = nn.ModuleList(GridAttention(outputs, groups) for _ in range(blocks if attention else 0))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))


class Middle(nn.Module):
    """A residual block, attention, a residual block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = GridAttention(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Answers [B, C of the task, H, W] -> latents [B, z, H/f, W/f]."""

    def __init__(self, config: VQGANConfig, tasks: Mapping[str, int]) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.ModuleDict({task: conv3(channels, config.channels) for task, channels in tasks.items()})
        self.down = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(zip((config.channels, *widths), widths, strict=False)):
            level = Level(inputs, outputs, config.blocks, i in config.attention, config.norm_groups)
            if i < len(widths) - 1:
                level.downsample = Downsample(outputs)
            self.down.append(level)
        self.mid = Middle(widths[-1], config.norm_groups)
        self.norm_out = norm(widths[-1], config.norm_groups)
        self.conv_out = conv3(widths[-1], config.z_channels)
        channels_last(self)

    def forward(self, x: torch.Tensor, task: str) -> torch.Tensor:
        x = self.conv_in[task](x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents [B, z, h, w] -> raw outputs [B, C of the task, h * f, w * f]; `up.0` is the finest level, the last."""

    def __init__(self, config: VQGANConfig, tasks: Mapping[str, int]) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = conv3(config.z_channels, widths[-1])
        self.mid = Middle(widths[-1], config.norm_groups)
        self.up = nn.ModuleList()
        for i, (outputs, inputs) in enumerate(zip(widths, (*widths[1:], widths[-1]), strict=True)):
            level = Level(inputs, outputs, config.blocks + 1, i in config.attention, config.norm_groups)
            if i > 0:
                level.upsample = Upsample(outputs)
            self.up.append(level)
        self.norm_out = norm(widths[0], config.norm_groups)
        self.conv_out = nn.ModuleDict({task: conv3(widths[0], channels) for task, channels in tasks.items()})
        channels_last(self)

    def forward(self, x: torch.Tensor, task: str) -> torch.Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out[task](F.silu(self.norm_out(x)))
