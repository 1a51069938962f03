"""The learning-rate schedule and averaged weights. Optimizers themselves are plugins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from cynosure.core.shards import local


def learning_rate(step: int, steps: int, peak: float, warmup: int, final: float) -> float:
    """Linear warm-up from 0 over `warmup` steps, then a cosine from `peak` to `final * peak`, as UViM trains.

    `step` counts from 0, so the very first update of a warm-up has size 0: it only fills the optimizer's averages.
    """
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every group at `lr` times its own `lr_scale` (1 unless a plugin's optimizer says otherwise)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


class Average:
    """Exponential moving average of `parameters` (0 < decay < 1), in float32."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.values = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After `step` optimizer steps; the decay grows from 0 so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [local(p.detach()).float() for p in self.parameters.values()]
        torch._foreach_lerp_([local(v) for v in self.values.values()], current, 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Make the averages the model's weights, for good."""
        for name, p in self.parameters.items():
            p.copy_(self.values[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and its own again after it."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.parameters.items():
                    p.copy_(own[name])
