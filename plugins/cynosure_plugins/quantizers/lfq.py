"""Lookup-free quantisation: the signs of a vector are its code."""

from __future__ import annotations

from typing import Any, final

import torch

from cynosure import hookimpl
from cynosure_plugins.quantizers.bits import BitsConfig, SignQuantizer


@final
class LookupFreeQuantizer(SignQuantizer):
    """LFQ (Yu et al. 2023, MAGVIT-v2, section 3.1): every number becomes -1 or 1."""

    class Config(BitsConfig):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__(config, size=1.0)

    def bound(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors


@hookimpl
def cynosure_register(register: Any) -> None:
    register.quantizer("lfq", LookupFreeQuantizer)
