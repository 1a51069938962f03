"""Entropy losses: every vector decides for one code, and the vectors together use all of them.

Together are the vectors of all ranks that train; micro-batches are summed up as losses, not as vectors.
Shapes: M vectors, K codewords, d width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cynosure_plugins.quantizers.codebook import mean_over_ranks
from cynosure_plugins.quantizers.gradients import straight_through

BLOCK_BYTES = 4 << 20
"""Upper bound of the probabilities in one tensor; a handful of such tensors exist at a time, in either direction."""


def codebook_entropy(
    vectors: torch.Tensor, codewords: torch.Tensor, temperature: float, hard: bool = False
) -> torch.Tensor:
    """Mean entropy of softmax(-distance² / temperature) minus the entropy of its mean, in nats; least: -log K.

    Vectors [M, d], codewords [K, d] (Chang et al. 2022, MaskGIT's tokenizer; `hard` is its entropy_loss_type argmax:
    cross entropy with the likeliest code, and the entropy of how often each is that, with the softmax's gradient). The
    backward pass computes the probabilities again, block by block: they are never all in memory.
    """
    squares = codewords.square().sum(dim=1)  # x·x is the same for every codeword and cancels

    def block(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.addmm(squares, x, codewords.t(), beta=-1, alpha=2) / temperature
        logs = F.log_softmax(logits, dim=-1)
        probabilities = logs.exp()
        if hard:
            chosen = F.one_hot(probabilities.argmax(dim=-1), len(codewords)).to(probabilities.dtype)
            probabilities = straight_through(probabilities, chosen)
        return -(probabilities * logs).sum(), probabilities.sum(dim=0)

    single, total = _in_blocks(block, vectors, len(codewords))
    (mean,) = mean_over_ranks([total], len(vectors))
    return single / len(vectors) - _entropy(mean, floor=1e-5)  # the floor of the published code


def bit_entropy(logits: torch.Tensor, diversity: float, group: int) -> torch.Tensor:
    """Mean entropy of independent bits minus `diversity` times the entropy of their mean distribution, in nats.

    `logits` [M, n] are those of each bit being 1. The first term is exact (Yu et al. 2023, MAGVIT-v2, equation 5: the
    softmax over all 2^n codes is a product over bits). For the second, bits count as independent between groups of
    `group` neighbours (Zhao et al. 2024, BSQ, with groups of 1): 2^group numbers a vector instead of 2^n.
    """
    ones = torch.sigmoid(logits)
    single = (F.softplus(logits) - ones * logits).sum() / len(logits)

    def block(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        joint = p.new_ones(len(p), 1)
        for bit in p.unbind(dim=1):
            joint = torch.cat([joint * (1 - bit[:, None]), joint * bit[:, None]], dim=1)
        return joint.new_zeros(()), joint.sum(dim=0)

    sums = [_in_blocks(block, p, 1 << p.shape[1])[1] for p in ones.split(group, dim=1)]
    means = mean_over_ranks(sums, len(ones))
    return single - diversity * torch.stack([_entropy(mean) for mean in means]).sum()


def _entropy(probabilities: torch.Tensor, floor: float = 1e-12) -> torch.Tensor:
    return -(probabilities * (probabilities + floor).log()).sum()


def _in_blocks(
    block: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], rows: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of what `block` makes of a few rows at a time, recomputed in the backward pass."""
    first, second = rows.new_zeros(()), rows.new_zeros(())
    for part in rows.split(max(1, BLOCK_BYTES // (4 * width))):
        one, two = checkpoint(block, part, use_reentrant=False, preserve_rng_state=False)
        first, second = first + one, second + two
    return first, second
