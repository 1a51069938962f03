"""The parts of UViM in three sizes, with random weights and random pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cynosure.core.contracts import Encoder
from cynosure.core.guided import GuidedModel
from cynosure.core.records import Batch, CodeSpec, Segment, Shapes
from cynosure_plugins.bases.vit import ViTBase
from cynosure_plugins.encoders.vit import ViTEncoder
from cynosure_plugins.priors.autoregressive import Autoregressive
from cynosure_plugins.quantizers.vq import VectorQuantizer
from cynosure_plugins.tokenizers.vit_oracle import ViTOracle
from cynosure_tasks.colorization import Colorization

CODE_GRID = (16, 16)
TASK = Colorization.name


@dataclass(frozen=True)
class Trunk:
    """A transformer: `depth` blocks of width `dim`; the hidden layer is four times as wide."""

    dim: int
    heads: int
    depth: int

    @property
    def options(self) -> dict[str, int]:
        return {"dim": self.dim, "heads": self.heads, "depth": self.depth, "mlp_dim": 4 * self.dim}


@dataclass(frozen=True)
class Size:
    """`image` and `patch` are pixels; encoder and decoder of the prior are alike."""

    image: int
    patch: int
    base: Trunk
    oracle: Trunk
    prior: Trunk
    vocab: int
    code_dim: int
    batch: int


SIZES = {
    "tiny": Size(64, 4, Trunk(128, 4, 3), Trunk(128, 4, 1), Trunk(128, 4, 3), vocab=256, code_dim=16, batch=16),
    "base": Size(256, 16, Trunk(384, 6, 6), Trunk(384, 6, 3), Trunk(384, 6, 6), vocab=1024, code_dim=64, batch=8),
    # Kolesnikov et al. 2022: ViT-B/16 with a half as deep oracle, ViT-L/16 and a decoder like it; 512 pixels.
    "paper": Size(512, 16, Trunk(768, 12, 12), Trunk(768, 12, 6), Trunk(1024, 16, 24), 4096, 768, batch=2),
}


class Features(Encoder):
    """An encoder that was run already: `features` [B, N, d]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return inputs["features"]


def code_spec(size: Size) -> CodeSpec:
    return CodeSpec((Segment("guide", CODE_GRID[0] * CODE_GRID[1], 1, size.vocab),), CODE_GRID)


def shapes(size: Size) -> Shapes:
    return Shapes((size.image, size.image), {TASK: 3}, code_spec(size), size.code_dim)


def guided_model(size: Size, with_prior: bool) -> GuidedModel:
    """Oracle, codebook and base, and the prior with its encoder where it is wanted."""
    known = shapes(size)
    quantizer = VectorQuantizer(VectorQuantizer.Config(vocab_size=size.vocab, dim=size.code_dim))
    oracle = ViTOracle.Config(patch=size.patch, code_grid=CODE_GRID, **size.oracle.options)
    base = ViTBase(ViTBase.Config(patch=size.patch, **size.base.options), known)
    prior = decoder(size, vit_encoder(size)) if with_prior else None
    task = Colorization(Colorization.Config(), known.image_size)
    return GuidedModel({TASK: task}, known, base, ViTOracle(oracle, known, quantizer), prior)


def vit_encoder(size: Size) -> ViTEncoder:
    return ViTEncoder(ViTEncoder.Config(patch=size.patch, **size.prior.options), shapes(size))


def decoder(size: Size, encoder: Encoder) -> Autoregressive:
    """The prior, its head not zero as at first: else every code would be as likely as every other."""
    prior = Autoregressive(Autoregressive.Config(**size.prior.options), shapes(size), encoder)
    nn.init.normal_(prior.head.weight, std=prior.config.dim**-0.5)
    return prior


def random_batch(size: Size, device: torch.device, codes: bool = False) -> Batch:
    pictures = torch.rand(2, size.batch, 3, size.image, size.image, device=device) * 2 - 1
    rows = torch.arange(size.batch, device=device)
    spec = code_spec(size)
    ids = torch.randint(0, size.vocab, (size.batch, spec.length, 1), device=device) if codes else None
    return Batch(TASK, {"image": pictures[0]}, {"rgb": pictures[1]}, rows, torch.ones_like(rows, dtype=torch.bool), ids)
