"""AdamW, the default optimizer."""

from __future__ import annotations

from typing import Any

import torch

from cynosure import hookimpl
from cynosure.train.groups import parameter_groups


@hookimpl
def cynosure_build_optimizer(run: Any) -> torch.optim.Optimizer | None:
    """Answers for stages with `optimizer: adamw`. Vectors and scalars (norms, tokens) do not decay, all else does."""
    settings = run.settings
    if settings.optimizer != "adamw":
        return None

    def options(name: str, p: torch.nn.Parameter) -> dict[str, Any]:
        matrix = sum(size > 1 for size in p.shape) >= 2
        return {"weight_decay": settings.weight_decay if matrix else 0.0}

    groups = parameter_groups(run, options)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
