"""Numbering the codes of a codebook anew, so that a prior learns only those that the data use.

Shapes: K codewords, n of them in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

Unknown = Literal["random", "extra"] | Annotated[int, Field(strict=True)]
MULTIPLIER = 2654435761
"""Of multiplicative hashing (Knuth, volume 3, section 6.4): the odd number next to 2^32 over the golden ratio."""


class Renumbering(nn.Module):
    """`used` are the n codes that become 0 to n - 1, in this order; what the others become is `unknown`.

    `extra` is a code of their own, n, that stands for the first codeword in use; `random` any code, by the place and
    the code that was there, so that nothing depends on when it is asked; a number that code. These are the choices of
    taming-transformers' VQGAN (`remap`). A vector that fell on one of the others is still passed on as its own
    codeword; only its code says something else.
    """

    used: torch.Tensor
    numbers: torch.Tensor

    def __init__(self, used: Sequence[int], unknown: Unknown, codewords: int) -> None:
        super().__init__()
        self.unknown, n = unknown, len(used)
        self.vocab_size = n + (unknown == "extra")
        known = torch.tensor(used)
        other = unknown if isinstance(unknown, int) else n
        numbers = torch.full((codewords,), other).index_put((known,), torch.arange(n))
        self.register_buffer("numbers", numbers, persistent=False)  # K long, by old code; n: not known
        self.register_buffer("used", torch.cat([known, known[:1]])[: self.vocab_size], persistent=False)

    def new(self, ids: torch.Tensor) -> torch.Tensor:
        """Codes of the codebook int64 [B, N] -> their new numbers [B, N]."""
        numbers = self.numbers[ids]
        if self.unknown != "random":
            return numbers
        places = torch.arange(ids.shape[1], device=ids.device)
        mixed = (ids + MULTIPLIER * (places + 1)) * MULTIPLIER % (1 << 32) >> 8
        return torch.where(numbers < self.vocab_size, numbers, mixed % self.vocab_size)

    def old(self, numbers: torch.Tensor) -> torch.Tensor:
        """New numbers int64 -> codes of the codebook."""
        return self.used[numbers]


def wrong(used: Sequence[int], unknown: Unknown, codewords: int) -> str | None:
    """What keeps these codes of `codewords` from being numbered anew, or None."""
    if not used or len(set(used)) < len(used) or not all(0 <= code < codewords for code in used):
        return f"used must name at least one of the codes 0 to {codewords - 1}, and none twice"
    if isinstance(unknown, int) and not 0 <= unknown < len(used):
        return f"unknown is {unknown}, and used codes become 0 to {len(used) - 1}"
    return None
