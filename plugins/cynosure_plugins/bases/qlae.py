"""The decoder of QLAE: a learned constant map that the code styles layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import Field, PositiveInt
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.contracts import Base, PartConfig
from cynosure.core.records import Shapes
from cynosure_plugins.tokenizers.qlae import NORM_EPS, SLOPE, dense, smallest_map

CONSTANT = 0.1


class StyleBlock(nn.Module):
    """Transposed convolution, leaky ReLU, instance norm, then scale and shift, neither negative, from the style."""

    def __init__(self, channels: int, width: int, kernel: int, style: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(channels, width, kernel, stride=kernel - 2, padding=1, bias=False)
        self.style = nn.Linear(style, 2 * width)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """x [B, C, H, W] and style [B, d] -> [B, width, H, W]; twice the size for a kernel of 4."""
        scale, shift = F.relu(self.style(style))[..., None, None].chunk(2, dim=1)
        return F.instance_norm(F.leaky_relu(self.convolution(x), SLOPE), eps=NORM_EPS) * scale + shift


@final
class QLAEBase(Base):
    """The decoder of QLAE (Hsu et al. 2023, "Disentanglement via latent quantization", released code), which follows
    StyleGAN: y = f(z). It ignores the inputs; only the last convolution is a task's own.

    It mirrors the tokenizer `qlae`: a stage is convolutions of 3 x 3 and at last one of 4 x 4 that doubles the size.
    """

    class Config(PartConfig):
        widths: tuple[PositiveInt, ...] = Field(
            (256, 128, 64, 32), min_length=1, description="channels of every stage; each doubles the size"
        )
        convolutions: int = Field(3, ge=1, description="convolutions a stage")
        dense: tuple[PositiveInt, ...] = Field((256, 256), description="widths of the linear layers from code to style")

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        if shapes.spec is None:
            raise ValueError("base qlae draws from codes alone: it needs a tokenizer")
        self.config = config
        # The last segment has one position a vector, whatever a quantizer writes before it.
        code = shapes.spec.segments[-1].length * shapes.code_dim
        grid = smallest_map(shapes.image_size, len(config.widths), "base qlae")
        self.code = code
        self.constant = nn.Parameter(torch.full((config.widths[0], *grid), CONSTANT))
        self.dense = dense(code, config.dense)
        style = (code, *config.dense)[-1]
        channels = [width for width in config.widths for _ in range(config.convolutions)]
        kernels = ([3] * (config.convolutions - 1) + [4]) * len(config.widths)
        sizes = zip((channels[0], *channels), channels, kernels, strict=False)
        self.blocks = nn.ModuleList(StyleBlock(a, b, kernel, style) for a, b, kernel in sizes)
        heads = {t: nn.Conv2d(channels[-1], c, 3, padding=1, bias=False) for t, c in shapes.channels.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        if vectors is None:
            vectors = self.constant.new_zeros(len(next(iter(inputs.values()))), self.code)
        style = self.dense(vectors.flatten(1))
        x = self.constant.expand(len(style), -1, -1, -1)
        for block in self.blocks:
            x = block(x, style)
        return self.heads[task](x)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.base("qlae", QLAEBase)
