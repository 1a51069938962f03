"""Binary spherical quantisation: the signs of a vector on the unit sphere are its code."""

from __future__ import annotations

from typing import Any, final

import torch
from pydantic import Field
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure_plugins.quantizers.bits import BitsConfig, SignQuantizer

SHORTEST = 1e-4
"""Shorter vectors are divided by this instead of their length: the gradient at 0 would drown that of all others."""


@final
class BinarySphericalQuantizer(SignQuantizer):
    """BSQ (Zhao et al. 2024, section 4): vectors of length 1 go to the corners ±1/sqrt(d) of a cube in the sphere.

    The error is bounded, so there is no need of a commitment loss.
    """

    class Config(BitsConfig):
        bits: int = Field(18, ge=2, le=256, description="numbers a vector, the width d; there are 2^bits codewords")
        commitment: float = Field(0.0, ge=0, description="weight of the pull of vectors to their codewords")

    def __init__(self, config: Config) -> None:
        super().__init__(config, size=config.bits**-0.5)

    def bound(self, vectors: torch.Tensor) -> torch.Tensor:
        return F.normalize(vectors, dim=-1, eps=SHORTEST)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.quantizer("bsq", BinarySphericalQuantizer)
