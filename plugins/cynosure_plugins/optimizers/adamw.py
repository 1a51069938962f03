"""AdamW, the default optimizer."""

from __future__ import annotations

from typing import Any

import torch

from cynosure import hookimpl
from cynosure.train.groups import kernels, parameter_groups


@hookimpl
def cynosure_build_optimizer(run: Any) -> torch.optim.Optimizer | None:
    """Answers for stages with `optimizer: adamw`; only `kernels` decay, as in minGPT."""
    settings = run.settings
    if settings.optimizer != "adamw":
        return None
    decaying = kernels(run.model)
    groups = parameter_groups(run, lambda name, _: {"weight_decay": settings.weight_decay * (name in decaying)})
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
