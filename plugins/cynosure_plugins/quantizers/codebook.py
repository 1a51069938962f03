"""Pieces that codebooks are made of: nearest-codeword search, splitting and restarting, k-means, sums over ranks.

Shapes: M vectors, K codewords, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional as F

from cynosure.errors import CheckpointError, CynosureError, TrainingError

BLOCK_BYTES = 16 << 20
"""Upper bound of the distances held at once; they are never all in memory."""


class Search:
    """The nearest of codewords [K, d] by Euclidean distance, made ready once for any number of questions."""

    @torch.no_grad()
    def __init__(self, codewords: torch.Tensor) -> None:
        codewords = codewords.detach().float()
        self.squares = codewords.square().sum(dim=1)
        self.table = codewords.t().contiguous()

    @torch.no_grad()
    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Ids int64 [M] of the codewords nearest to vectors [M, d]; lowest id on ties.

        Compares e·e - 2 x·e in float32: x·x is the same for every codeword and would only cost precision.
        """
        vectors, size = vectors.detach().float(), len(self.squares)
        rows = min(block_rows(size), len(vectors))
        distances = vectors.new_empty(rows, size)  # one for all blocks: fresh memory is slower than the comparison
        ids = []
        for block in vectors.split(rows):
            found = torch.addmm(self.squares, block, self.table, alpha=-2, out=distances[: len(block)])
            ids.append(_lowest(found))
        return torch.cat(ids)


def nearest(vectors: torch.Tensor, codewords: torch.Tensor) -> torch.Tensor:
    """Ids int64 [M] of the codewords [K, d] nearest to the vectors [M, d], as `Search` finds them."""
    return Search(codewords)(vectors)


def _lowest(values: torch.Tensor, run: int = 64) -> torch.Tensor:
    """`argmin` of every row; minima of runs and then a look into one run take a fraction of its time on CPUs."""
    if values.shape[1] % run:
        return values.argmin(dim=1)
    runs = values.unflatten(1, (-1, run))
    best = runs.amin(dim=2).argmin(dim=1)
    chosen = runs.take_along_dim(best[:, None, None], dim=1)[:, 0]
    return best * run + chosen.argmin(dim=1)


def block_rows(vocab_size: int) -> int:
    """Vectors whose distances to all K codewords are held at once."""
    return max(1, BLOCK_BYTES // (4 * vocab_size))


def count_by_code(ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """How often each code is among the ids [M], int64 [K]; unlike bincount it never waits for an accelerator."""
    return ids.new_zeros(vocab_size).index_add_(0, ids, torch.ones_like(ids))


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


def lottery(vectors: torch.Tensor, seed: int) -> torch.Tensor:
    """Lots int64 [M], one for each of the vectors float32 [M, d]: the lowest K lots are a random choice of K vectors.

    A hash of the vectors themselves, so the choice depends neither on their order nor on how a batch was divided.
    """
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randint(-(1 << 62), 1 << 62, (vectors.shape[1],), generator=generator) | 1
    bits, factors = vectors.contiguous().view(torch.int32), factors.to(vectors.device)
    return torch.cat([(block * factors).sum(dim=1) for block in bits.split(1 << 12)])


def tile(vectors: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """As many as `count` vectors [count, d]; too few are repeated with noise up to 0.01/sqrt(d) (Lee et al. 2022)."""
    if len(vectors) >= count:
        return vectors[:count]
    repeated = vectors.repeat(-(-count // len(vectors)), 1)[:count]
    noise = torch.rand(repeated.shape, generator=generator).to(vectors.device)
    return repeated + noise * 0.01 * vectors.shape[1] ** -0.5


def unit(vectors: torch.Tensor, normalize: bool = True) -> torch.Tensor:
    """Vectors [..., d] at length 1, or as they are without `normalize`."""
    return F.normalize(vectors, dim=-1) if normalize else vectors


def require_width(vectors: torch.Tensor, width: int) -> None:
    """Raises CynosureError when vectors [B, N, d] are not as wide as the quantizer's."""
    if vectors.shape[-1] != width:
        raise CynosureError(f"The codebook holds vectors of width {width}, not {vectors.shape[-1]}: set `dim`.")


def require_size(held: torch.Tensor | None, vocab_size: int, width: int) -> None:
    """Raises CheckpointError when the codebook of a checkpoint is not of the size [K, d] of the model's."""
    if held is not None and tuple(held.shape) != (vocab_size, width):
        raise CheckpointError(
            f"The checkpoint holds {held.shape[0]} codewords of width {held.shape[1]}, this model {vocab_size} of "
            f"width {width}: give the quantizer the checkpoint's `vocab_size` and `dim`."
        )


def require_finite(sums: torch.Tensor, what: str = "") -> None:
    """Raises TrainingError when vectors that were summed up are not finite."""
    if not bool(sums.sum().isfinite()):
        raise TrainingError(
            f"The vectors to quantise{what} are not finite: "
            "lower the learning rate or clip the gradients, then resume from the last checkpoint."
        )


class Watch:
    """Tells `learn` of a quantizer without a codebook whether the vectors of the step were finite."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None

    def see(self, vectors: torch.Tensor) -> None:
        total = vectors.detach().sum()
        self._sum = total if self._sum is None else self._sum + total

    def end_step(self) -> bool:
        """Whether the step saw any vectors. Raises TrainingError, on all ranks alike, when some were not finite."""
        if self._sum is None:
            return False
        seen, self._sum = self._sum[None], None
        require_finite(sum_over_ranks(seen, seen)[1])
        return True


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(counts: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts [K] and sums [K, d] of all ranks together, in one reduction."""
    if not _several_ranks():
        return counts, sums
    flat = torch.cat([counts, sums.flatten()])
    dist.all_reduce(flat)
    return flat[: len(counts)], flat[len(counts) :].view_as(sums)


def mean_over_ranks(sums: Sequence[torch.Tensor], count: int) -> list[torch.Tensor]:
    """Sums [n] over `count` vectors of this rank -> means over those of all ranks that learn, in one reduction.

    The gradient is that of one process with all vectors, once DDP has taken the mean over ranks.
    """
    if not (torch.is_grad_enabled() and _several_ranks()):
        return [each / count for each in sums]
    flat = torch.cat([*sums, sums[0].new_tensor([count])])
    *totals, counts = _SumOverRanks.apply(flat).split([*map(len, sums), 1])
    return [total / counts for total in totals]


class _SumOverRanks(torch.autograd.Function):
    """What every rank brings, added up, and so are the gradients that come back: each rank's loss depends on all."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def gather_over_ranks(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors [M, d] of all ranks, in rank order; every rank must bring equally many."""
    if not _several_ranks():
        return vectors
    parts = [torch.empty_like(vectors) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, vectors.contiguous())
    return torch.cat(parts)


def from_first_rank(vectors: torch.Tensor) -> torch.Tensor:
    """The first rank's vectors [K, d], on every rank; all must bring the same shape."""
    if _several_ranks():
        vectors = vectors.contiguous()
        dist.broadcast(vectors, 0)
    return vectors
