"""A laptop-sized image encoder for a prior; with warm start it continues from base `hybrid`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch

from cynosure import hookimpl
from cynosure.core.contracts import Encoder
from cynosure.core.records import Shapes
from cynosure.core.trunk import HybridTrunk, TrunkConfig


@final
class HybridEncoder(Encoder):
    """Tokens at 1/8 of the image, [B, N, d]."""

    class Config(TrunkConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.dim = config.dim
        self.trunk = HybridTrunk(config, shapes.image_size, shapes.channels)

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.trunk(inputs, task)[2]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.encoder("hybrid", HybridEncoder)
