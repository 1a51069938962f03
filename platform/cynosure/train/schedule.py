"""The learning-rate schedule and averaged weights. Optimizers themselves are plugins."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


def learning_rate(step: int, steps: int, peak: float, warmup: int, final: float) -> float:
    """Linear warm-up over `warmup` steps, then a cosine from `peak` to `final * peak`; step counts from 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every group at `lr` times its own `lr_scale` (1 unless a plugin's optimizer says otherwise)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


class Average:
    """Exponential moving average of the trainable parameters (0 < decay < 1), in float32."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().float().clone() for name, p in parameters}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, nn.Parameter]], step: int) -> None:
        """After `step` optimizer steps; the decay grows from 0 so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in parameters:
            self.values[name].lerp_(p.detach().float(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        for name, p in parameters:
            p.copy_(self.values[name])
