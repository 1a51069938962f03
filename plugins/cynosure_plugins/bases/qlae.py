"""The decoder of QLAE: a learned constant map that the code styles layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, final

import torch
from pydantic import Field, PositiveInt
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.contracts import Base, PartConfig
from cynosure.core.records import Shapes
from cynosure_plugins.quantizers.tripod import normalized_curvature, spread
from cynosure_plugins.tokenizers.qlae import NORM_EPS, SLOPE, dense, smallest_map

CONSTANT = 0.1
EXAMPLES = 8
"""How many pictures of a batch are asked for their curvature."""
DIRECTIONS = 2


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
        curvature: float = Field(
            0.0,
            ge=0,
            description="weight of Tripod's penalty on layers that see latents together, for quantizer latent with"
            " codebook: tanh; 1e-8 to 1e-2 by data set. It costs ten passes through the layers on some of the batch",
        )

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        if shapes.spec is None:
            raise ValueError("base qlae draws from codes alone: it needs a tokenizer")
        self.config = config
        code = shapes.positions * shapes.code_dim
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
        return self.layers(vectors.flatten(1), task)["output"]

    def layers(self, code: torch.Tensor, task: str) -> dict[str, torch.Tensor]:
        """What every layer makes of the code [B, N d], the raw output at last."""
        found = {}
        style = self.dense(code)
        x = self.constant.expand(len(style), -1, -1, -1)
        for i, block in enumerate(self.blocks):
            found[f"block{i}"] = x = block(x, style)
        return {**found, "output": self.heads[task](x)}

    def penalties(self, vectors: torch.Tensor, task: str) -> dict[str, torch.Tensor]:
        """Tripod's normalised Hessian penalty, mean over layers, at `EXAMPLES` of the batch; only the base learns."""
        if not self.config.curvature:
            return {}
        latents = vectors.detach().flatten(1)
        std, latents = spread(latents), latents[:EXAMPLES]
        normal = torch.randn(len(latents), DIRECTIONS, latents.shape[1], device=latents.device)
        found = normalized_curvature(
            partial(self.layers, task=task), latents, torch.randn_like(normal).sign(), normal, std
        )
        return {"curvature": self.config.curvature * torch.stack(list(found.values())).mean()}

    def last_layer(self, task: str) -> nn.Module:
        return self.heads[task]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.base("qlae", QLAEBase)
