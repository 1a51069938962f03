"""Classifier-free guidance (Ho and Salimans 2022): one prior learns p(z | x) and p(z), and sampling exaggerates x.

Shapes: B batch, N context vectors, d width, K vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn

from cynosure.errors import CynosureError


class ConditionDropout(nn.Module):
    """Replaces the whole context of a training row, with `probability`, by one learned null vector.

    Draws come from torch's generator. With probability 0 it has no parameter and changes nothing.
    """

    null: nn.Parameter | None

    def __init__(self, dim: int, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.register_parameter("null", nn.Parameter(torch.randn(dim) * 0.02) if probability > 0 else None)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Context [B, N, d] -> the same with dropped rows in training."""
        if self.null is None or not self.training:
            return context
        dropped = torch.rand(len(context), 1, 1, device=context.device) < self.probability
        return torch.where(dropped, self.null.to(context.dtype), context)

    def pair(self, context: torch.Tensor, guidance: float) -> torch.Tensor:
        """Context [B, N, d] for sampling at this scale: as it is for 1, else [2B, N, d] with null rows behind it.

        Raises CynosureError when the prior never learned to do without its context.
        """
        require_guidance(guidance, self.null is not None)
        if guidance == 1:
            return context
        assert self.null is not None
        return torch.cat([context, self.null.to(context.dtype).expand_as(context)])


def learned_guidance(prior: nn.Module) -> bool:
    """Whether a prior learned to do without its context."""
    return any(isinstance(part, ConditionDropout) and part.null is not None for part in prior.modules())


def require_guidance(guidance: float, learned: bool) -> None:
    """Raises CynosureError for guidance of a prior that has no context, or was trained without dropping it."""
    if guidance != 1 and not learned:
        raise CynosureError(
            f"guidance {guidance:g} needs a prior that was trained with condition_dropout above 0, 0.1 for example: "
            "train one, or sample with guidance 1."
        )


def copies(guidance: float) -> int:
    """How often each row is computed at this scale: 1, or 2 where conditional and null rows share a batch."""
    return 1 if guidance == 1 else 2


def guide(logits: torch.Tensor, guidance: float) -> torch.Tensor:
    """Logits [2B, ..., K] of conditional rows c, then null rows u -> u + guidance (c - u), [B, ..., K].

    They must be finite: codes that do not exist are ruled out afterwards. With guidance 1, logits as they are.
    """
    if guidance == 1:
        return logits
    conditional, null = logits.chunk(2)
    return null + guidance * (conditional - null)
