"""What the tests of convolutional tokenizers share: filling a pair of parts, counting their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cynosure.core.contracts import Base, Quantizer, Tokenizer
from cynosure.core.records import Shapes
from cynosure_plugins.convnets.layers import PUBLISHED_GROUPS
from cynosure_plugins.importers.arrays import Made
from cynosure_plugins.quantizers.vq import VectorQuantizer

TASK = "picture"
F16 = {"channels": 128, "multipliers": (1, 1, 2, 2, 4), "blocks": 2, "attention": (4,), "z_channels": 256}
"""The published VQGANs for 256 pixels with 16 x 16 codes."""
Arrays = dict[str, np.ndarray]


def read(file: Path) -> Arrays:
    with np.load(file) as arrays:
        return dict(arrays)


def vqgan_options(config: dict[str, Any]) -> dict[str, Any]:
    """Ours of a published `ddconfig`."""
    resolutions = [config["resolution"] >> level for level in range(len(config["ch_mult"]))]
    return {
        "channels": config["ch"],
        "multipliers": config["ch_mult"],
        "blocks": config["num_res_blocks"],
        "attention": [level for level, r in enumerate(resolutions) if r in config["attn_resolutions"]],
        "z_channels": config["z_channels"],
        "groups": PUBLISHED_GROUPS,
    }


def pair(
    tokenizer: type[Tokenizer], base: type[Base], options: dict[str, Any], quantizer: Quantizer, side: int
) -> nn.ModuleDict:
    """Tokenizer and base of pictures with `side` pixels, in evaluation mode; names of the state are a model's."""
    shapes = Shapes((side, side), {TASK: 3})
    first: Any = tokenizer(tokenizer.Config(**options), shapes, quantizer)  # type: ignore[call-arg]
    shapes = Shapes((side, side), {TASK: 3}, first.spec, first.code_dim)
    return nn.ModuleDict({"tokenizer": first, "base": base(base.Config(**options), shapes)}).eval()  # type: ignore[call-arg]


def fill(parts: nn.ModuleDict, table: dict[str, Made], arrays: Arrays) -> set[str]:
    """All tensors from the arrays that the table names, and no others; returns the arrays that were not asked for."""
    tensors = {name: torch.from_numpy(np.array(made.make(arrays))) for name, made in table.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {n: made.shape(shapes) for n, made in table.items()}
    parts.load_state_dict(tensors)
    return set(arrays) - {source for made in table.values() for source in made.sources}


def published_vq(vocab_size: int, dim: int, **options: Any) -> VectorQuantizer:
    settings = {"update": "gradient", "normalize": False, "min_count": 0, "commitment": 0.25, **options}
    return VectorQuantizer(VectorQuantizer.Config(vocab_size=vocab_size, dim=dim, **settings))


def millions(module: nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


def rows(array: np.ndarray) -> torch.Tensor:
    """A grid [B, C, h, w] as vectors [B, h * w, C]."""
    return torch.from_numpy(array).flatten(2).transpose(1, 2)


def same(found: torch.Tensor, wanted: np.ndarray | torch.Tensor, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), atol=atol, rtol=1e-5)
