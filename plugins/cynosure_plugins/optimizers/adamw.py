"""AdamW, the default optimizer."""

from __future__ import annotations

from typing import Any

import torch

from cynosure import hookimpl


@hookimpl
def cynosure_build_optimizer(run: Any) -> torch.optim.Optimizer | None:
    """Answers for stages with `optimizer: adamw`. Vectors (norms, biases, tokens) do not decay; all else does."""
    settings = run.settings
    if settings.optimizer != "adamw":
        return None
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, fused=True)
