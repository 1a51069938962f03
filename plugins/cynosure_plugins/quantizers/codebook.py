"""Pieces that codebooks are made of: nearest-codeword search, Linde-Buzo-Gray splitting, k-means, sums over ranks.

Shapes: M vectors, K codewords, d width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional as F

BLOCK_BYTES = 16 << 20
"""Upper bound of the distances held at once; they are never all in memory."""


def nearest(vectors: torch.Tensor, codewords: torch.Tensor) -> torch.Tensor:
    """Ids int64 [M] of the codewords [K, d] nearest to the vectors [M, d] by Euclidean distance; lowest id on ties.

    Compares e·e - 2 x·e in float32: x·x is the same for every codeword and would only cost precision.
    """
    vectors, codewords = vectors.float(), codewords.float()
    squares = codewords.square().sum(dim=1)
    table = codewords.t().contiguous()
    rows = max(1, BLOCK_BYTES // (4 * len(codewords)))
    ids = [torch.addmm(squares, block, table, alpha=-2).argmin(dim=1) for block in vectors.split(rows)]
    return torch.cat(ids)


def sum_by_code(vectors: torch.Tensor, ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Sums [K, d] of the vectors [M, d] that chose each code."""
    return vectors.new_zeros(vocab_size, vectors.shape[1]).index_add_(0, ids, vectors)


def split(
    counts: np.ndarray, sums: np.ndarray, min_count: float, noise: Callable[[], np.ndarray], halve: bool = True
) -> list[tuple[int, int]]:
    """Linde-Buzo-Gray splitting, in place: while some count is below `min_count`, the most used entry replaces the
    least used one. The two share the count; the copy is multiplied by `noise()` [d], the original stays as it is.

    `sums` [K, d] are halved with the counts; `halve=False` is for tables that hold codewords instead of sums. The first
    entry wins ties. Returns (source, replaced) in order. Stops where splitting could only make more entries too small.
    """
    pairs: list[tuple[int, int]] = []
    while counts.min() < min_count:
        most, least = int(counts.argmax()), int(counts.argmin())
        if counts[most] / 2 < min_count:
            break
        counts[most] /= 2
        counts[least] = counts[most]
        if halve:
            sums[most] /= 2
        sums[least] = sums[most] * noise()
        pairs.append((most, least))
    return pairs


def kmeans(
    vectors: torch.Tensor,
    vocab_size: int,
    normalize: bool,
    generator: torch.Generator,
    noise: Callable[[], np.ndarray],
    iterations: int = 8,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A few Lloyd iterations from random vectors; empty clusters are refilled by splitting the largest.

    Returns the shares [K], which add up to 1 and are all positive, and the centres [K, d] (norm 1 with `normalize`).
    """
    order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
    centres = vectors[order.repeat(-(-vocab_size // len(order)))[:vocab_size]]
    least = min(1.0, len(vectors) / (4 * vocab_size))  # a quarter of the mean at most, so splitting always gets there
    for _ in range(iterations):
        ids = nearest(vectors, unit(centres, normalize))
        counts = torch.bincount(ids, minlength=vocab_size).float().cpu()
        sums = sum_by_code(vectors, ids, vocab_size).cpu()
        split(counts.numpy(), sums.numpy(), least, noise)
        centres = (sums / counts[:, None]).to(vectors.device)
    return (counts / counts.sum()).to(vectors.device), unit(centres, normalize)


def unit(vectors: torch.Tensor, normalize: bool = True) -> torch.Tensor:
    """Vectors [..., d] at length 1, or as they are without `normalize`."""
    return F.normalize(vectors, dim=-1) if normalize else vectors


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(counts: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts [K] and sums [K, d] of all ranks together, in one reduction."""
    if not _several_ranks():
        return counts, sums
    flat = torch.cat([counts, sums.flatten()])
    dist.all_reduce(flat)
    return flat[: len(counts)], flat[len(counts) :].view_as(sums)


def gather_over_ranks(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors [M, d] of all ranks, in rank order; every rank must bring equally many."""
    if not _several_ranks():
        return vectors
    parts = [torch.empty_like(vectors) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, vectors.contiguous())
    return torch.cat(parts)
