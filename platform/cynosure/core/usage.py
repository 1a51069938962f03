"""How much of a codebook is in use, from counts [K] of how often each code was chosen."""

from __future__ import annotations

import torch


def used(counts: torch.Tensor) -> float:
    """Share of codes chosen at least once, in [0, 1]."""
    return float((counts > 0).float().mean())


def perplexity(counts: torch.Tensor) -> float:
    """exp of the entropy of the code frequencies: K when all are equally frequent, 1 when one takes all, 0 if none."""
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0].double() / total
    return float(torch.exp(-(share * share.log()).sum()))


def codebook_report(counts: torch.Tensor) -> dict[str, float]:
    """What to log about a codebook: `used` share, `perplexity` and the number of `dead` codes."""
    return {"used": used(counts), "perplexity": perplexity(counts), "dead": int((counts == 0).sum())}
