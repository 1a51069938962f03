"""Finite scalar quantisation: bound every number, round it to one of a few levels."""

from __future__ import annotations

from typing import Annotated, Any, final

import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig
from cynosure_plugins.quantizers.lattice import Lattice

Levels = tuple[Annotated[int, Field(ge=2, le=1024)], ...]
MARGIN = 1e-3
"""How far the bound reaches beyond the outermost levels, so that these can be met exactly."""


@final
class FiniteScalarQuantizer(Lattice):
    """FSQ (Mentzer et al. 2023, section 3.1 and appendix A.1): no codebook, no losses, nearly all codes in use.

    A number x becomes round(tanh(x + shift) · h - o) with h = (L - 1)(1 + 0.001) / 2 and o = 1/2 for even L, else 0;
    shift = artanh(o / h) keeps 0 at 0. The value passed on is that integer over floor(L / 2): in [-1, 1] for odd L, in
    [-1, 1 - 2 / L] for even L. The integer plus floor(L / 2) is the digit of the id (see `Lattice`).
    """

    class Config(PartConfig):
        levels: Levels = Field(
            (8, 5, 5, 5),
            min_length=1,
            description="L of every dimension; their number is the width d, their product K. The paper's: 8,6,5 (240),"
            " 8,5,5,5 (1000), 7,5,5,5,5 (4375), 8,8,8,6,5 (15360), 8,8,8,5,5,5 (64000)",
        )
        groups: int = Field(1, ge=1, description="D, codes a vector: dimensions are shared out, K gets smaller")

    def __init__(self, config: Config) -> None:
        super().__init__(config.levels, config.groups)
        self.config = config

    def bound(self, vectors: torch.Tensor) -> torch.Tensor:
        reach = (self.level - 1) * (1 + MARGIN) / 2
        offset = (self.level % 2 == 0) / 2
        return (torch.tanh(vectors + torch.atanh(offset / reach)) * reach - offset) / (self.level // 2)

    def digits(self, bounded: torch.Tensor) -> torch.Tensor:
        half = self.level // 2
        return ((bounded * half).round().long() + half).clamp(torch.zeros_like(half), self.level - 1)

    def values(self, digits: torch.Tensor) -> torch.Tensor:
        half = self.level // 2
        return (digits - half) / half


@hookimpl
def cynosure_register(register: Any) -> None:
    register.quantizer("fsq", FiniteScalarQuantizer)
