"""The encoder of QLAE: convolutions that end in one vector of a few numbers, each a factor of the whole picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import Field, PositiveInt
from torch import nn

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Quantizer, Tokenizer
from cynosure.core.records import Codes, CodeSpec, Encoded, Shapes

SLOPE = 0.2
NORM_EPS = 1e-6


def smallest_map(image_size: tuple[int, int], stages: int, what: str) -> tuple[int, int]:
    """(rows, columns) after `stages` halvings; ValueError, which says `what` needs it, unless that works out."""
    rows, columns = (size // 2**stages for size in image_size)
    if (rows * 2**stages, columns * 2**stages) != tuple(image_size) or rows * columns < 2:
        raise ValueError(
            f"{what} halves the picture {stages} times, down to at least 2 x 1: image_size {image_size[0]} x "
            f"{image_size[1]} does not allow it, change image_size or the number of widths"
        )
    return rows, columns


def dense(width: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers to `widths`, each with a ReLU."""
    sizes = zip((width, *widths), widths, strict=False)
    return nn.Sequential(*(layer for a, b in sizes for layer in (nn.Linear(a, b), nn.ReLU())))


@final
class QLAETokenizer(Tokenizer):
    """The encoder of QLAE (Hsu et al. 2023, "Disentanglement via latent quantization", released code).

    Stages of convolutions (3 x 3, the last of a stage 4 x 4 with stride 2), each with instance norm and leaky ReLU,
    then linear layers. Only the first convolution is a task's own. The published code is one vector of 2 numbers a
    factor: `quantizer: {name: latent, sizes: [10, ...], spread: true}`, which priors read as one position a number.
    Other quantizers work too; `vq` with several positions is the VQ-VAE of the paper's ablations.
    """

    class Config(PartConfig):
        widths: tuple[PositiveInt, ...] = Field(
            (32, 64, 128, 256), min_length=1, description="channels of every stage; each halves the picture"
        )
        convolutions: int = Field(3, ge=1, description="convolutions a stage")
        dense: tuple[PositiveInt, ...] = Field((256, 256), description="widths of the linear layers before the head")
        positions: int = Field(1, ge=1, description="N, vectors a picture; they stand for no place in it")

    def __init__(self, config: Config, shapes: Shapes, quantizer: Quantizer) -> None:
        super().__init__()
        self.config, self.quantizer = config, quantizer
        rows, columns = smallest_map(shapes.image_size, len(config.widths), "tokenizer qlae")
        channels = [width for width in config.widths for _ in range(config.convolutions)]
        kernels = ([3] * (config.convolutions - 1) + [4]) * len(config.widths)
        self.stems = nn.ModuleDict({t: _convolution(c, channels[0], kernels[0]) for t, c in shapes.channels.items()})
        self.convolutions = nn.ModuleList(map(_convolution, channels[:-1], channels[1:], kernels[1:]))
        self.norms = nn.ModuleList(nn.InstanceNorm2d(width, eps=NORM_EPS, affine=True) for width in channels)
        self.dense = dense(channels[-1] * rows * columns, config.dense)
        features = (channels[-1] * rows * columns, *config.dense)[-1]
        self.head = nn.Linear(features, config.positions * quantizer.dim)

    @property
    def spec(self) -> CodeSpec:
        """One vector stands for the whole picture, a grid of one cell; several stand for no grid."""
        grid = (1, 1) if self.config.positions == 1 else None
        return CodeSpec(self.quantizer.segments(self.config.positions), grid)

    @property
    def code_positions(self) -> int:
        return self.config.positions

    def encode(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> Encoded:
        quantized = self.quantizer(self.bottleneck(targets, inputs, task))
        stats = {"codes_used": (quantized.usage > 0).sum() / len(quantized.usage)}
        return Encoded(Codes(quantized.ids, self.spec), quantized.vectors, quantized.losses, stats)

    def bottleneck(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """Targets [B, C, H, W] -> the vectors [B, N, d] that are quantized."""
        x = targets
        for convolution, norm in zip((self.stems[task], *self.convolutions), self.norms, strict=True):
            x = nn.functional.leaky_relu(norm(convolution(x)), SLOPE)
        return self.head(self.dense(x.flatten(1))).unflatten(1, (self.config.positions, -1))


def _convolution(channels: int, width: int, kernel: int) -> nn.Conv2d:
    """3 x 3 keeps the size, 4 x 4 halves it."""
    return nn.Conv2d(channels, width, kernel, stride=kernel - 2, padding=1, bias=False)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.tokenizer("qlae", QLAETokenizer)
