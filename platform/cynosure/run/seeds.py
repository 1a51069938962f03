"""Seeds of single answers, so that an answer never depends on the batch it is computed in."""

from __future__ import annotations

from operator import index

import torch


def row_seeds(seed: int, keys: torch.Tensor, samples: torch.Tensor | int = 0) -> torch.Tensor:
    """One seed, int64 [B], for each row key and sample number (int64 [B]); odd factors keep them apart."""
    start = (index(seed) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & ((1 << 63) - 1)
    return keys * 0x2545F4914F6CDD1D + torch.as_tensor(samples, device=keys.device) * 0x1B8735939D1C69E5 + start
