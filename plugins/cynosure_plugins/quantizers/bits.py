"""What quantisers share whose codes are the signs of numbers. Shapes: B batch, N vectors, d width (bits)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field

from cynosure.core.contracts import PartConfig
from cynosure_plugins.quantizers.entropy import bit_entropy
from cynosure_plugins.quantizers.lattice import Lattice


class BitsConfig(PartConfig):
    """Options of a quantizer of signs."""

    bits: int = Field(18, ge=1, le=256, description="numbers a vector, the width d; there are 2^bits codewords")
    groups: int = Field(
        1, ge=1, description="D, codes a vector: 18 bits in 2 groups are two codes of 512, which a prior can model"
    )
    commitment: float = Field(0.25, ge=0, description="weight of the pull of vectors to their codewords")
    entropy: float = Field(0.1, ge=0, description="weight of the entropy loss: each bit decided, all codes in use")
    diversity: float = Field(1.0, ge=0, description="weight of 'all codes in use' within the entropy loss")
    temperature: float = Field(1.0, gt=0, description="divides the squared distances in the entropy loss")
    joint_bits: int = Field(
        1, ge=1, le=12, description="neighbouring bits whose combinations should all be in use; 1 looks at single bits"
    )


class SignQuantizer(Lattice):
    """Replaces every number by plus or minus `size`; a plus is the digit 1, the first bit of an id counting least."""

    def __init__(self, config: BitsConfig, size: float) -> None:
        super().__init__((2,) * config.bits, config.groups)
        self.config, self.size = config, size

    def digits(self, bounded: torch.Tensor) -> torch.Tensor:
        return (bounded > 0).long()

    def values(self, digits: torch.Tensor) -> torch.Tensor:
        return (2 * digits - 1) * self.size

    def losses(self, bounded: torch.Tensor, values: torch.Tensor) -> Mapping[str, torch.Tensor]:
        config = self.config
        losses = {}
        if config.commitment:
            losses["commitment"] = config.commitment * (bounded - values).square().mean()
        if config.entropy:
            # The squared distances to -size and +size differ by 4 · size · x.
            logits = bounded.flatten(0, 1) * (4 * self.size / config.temperature)
            losses["entropy"] = config.entropy * bit_entropy(logits, config.diversity, config.joint_bits)
        return losses
