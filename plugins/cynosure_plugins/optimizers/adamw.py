"""AdamW, the default optimizer."""

from __future__ import annotations

from typing import Any

import torch

from cynosure import hookimpl
from cynosure.train.groups import parameter_groups


@hookimpl
def cynosure_build_optimizer(run: Any) -> torch.optim.Optimizer | None:
    """Answers for stages with `optimizer: adamw`. Vectors (norms, biases, tokens) do not decay; all else does."""
    settings = run.settings
    if settings.optimizer != "adamw":
        return None
    groups = parameter_groups(run, lambda name, p: {"weight_decay": settings.weight_decay if p.ndim >= 2 else 0.0})
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
