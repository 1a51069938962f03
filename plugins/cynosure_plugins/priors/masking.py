"""How MaskGIT masks: schedules, the loss of masked codes, one round of decoding (Chang et al. 2022, section 3).

Everything is float32: one bit less or more would mask another number of codes (cos(pi/3) is below 0.5).
Shapes: B batch, N codes, K vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

MASK = -1
"""The id of a code that is not known."""
SCHEDULE = r"^(uniform|cosine|log|exp|pow\d+(\.\d+)?)$"


def mask_rate(schedule: str, ratio: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Which share of `total` codes is masked when `ratio` in [0, 1] of the work is done; in [1e-6, 1]."""
    ratio, bits = ratio.float(), total.float().clamp_min(2).log2()
    if schedule == "uniform":
        rate = 1 - ratio
    elif schedule == "cosine":
        rate = torch.cos(math.pi / 2 * ratio)
    elif schedule == "log":
        rate = -ratio.log2() / bits
    elif schedule == "exp":
        rate = 1 - torch.exp2(-bits * (1 - ratio))
    else:
        rate = 1 - ratio ** float(schedule.removeprefix("pow"))
    return rate.clamp(1e-6, 1)


def random_mask(codes: torch.Tensor, schedule: str) -> torch.Tensor:
    """What training masks, bool [B, N]: a random share of each row's `codes` (bool, which codes there are), at least
    one; by torch's generator."""
    total = codes.sum(1)
    rate = mask_rate(schedule, torch.rand(len(codes), device=codes.device), total)
    count = (rate * total).round().clamp_min(1)
    order = torch.rand(codes.shape, device=codes.device).masked_fill(~codes, 2).argsort(1).argsort(1)
    return (order < count[:, None]) & codes


def masked_cross_entropy(
    logits: torch.Tensor, ids: torch.Tensor, masked: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """Cross entropy of the codes [B, N] where masked [B, N], a mean over each row, then over rows.

    `smoothing` spreads that much of the target evenly over all tokens of logits [B, N, V] that are not -inf.
    """
    logp = logits.float().log_softmax(-1)
    exists = logp > -torch.inf
    spread = logp.masked_fill(~exists, 0).sum(-1) / exists.sum(-1)
    nll = -(1 - smoothing) * logp.gather(-1, ids[..., None])[..., 0] - smoothing * spread
    return ((nll * masked).sum(1) / masked.sum(1).clamp_min(1)).mean()


def gumbel(uniforms: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise of uniforms in [0, 1)."""
    return -torch.log(-torch.log((uniforms + 2**-25).clamp_max(1 - 2**-24)))


def remask(
    logits: torch.Tensor,
    ids: torch.Tensor,
    drawn: torch.Tensor,
    noise: torch.Tensor,
    initial: torch.Tensor,
    done: float,
    schedule: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One round of decoding: what was drawn is accepted where the model is confident, and masked again elsewhere.

    Codes `drawn` [B, N] of `logits` [B, N, K] answer ids [B, N], MASK where unknown; `initial` [B] were so at first.
    `done` in (0, 1] says how far decoding is after this round; `noise` [B, N] is added to the log probabilities.
    Returns all codes of this round, and the ids of the next, both [B, N].
    """
    unknown = ids == MASK
    answer = torch.where(unknown, drawn, ids)
    rate = mask_rate(schedule, torch.full(initial.shape, done, device=ids.device), initial)
    count = (initial * rate).floor().long()
    count = torch.minimum(unknown.sum(1) - 1, count).clamp(1, max(1, ids.shape[1] - 1))
    logp = logits.float().log_softmax(-1).gather(-1, torch.where(unknown, drawn, 0)[..., None])[..., 0]
    confidence = (logp + noise).masked_fill(~unknown, torch.inf)
    threshold = F.pad(confidence.sort(1).values, (0, 1), value=torch.inf).gather(1, count[:, None])
    return answer, torch.where(confidence < threshold, MASK, answer)
