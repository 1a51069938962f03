"""AdamW as QLAE was trained with it: strong decay, but not of biases and code values, and gradients clipped singly."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, final

import torch

from cynosure import hookimpl
from cynosure.train.groups import kernels, parameter_groups

LARGEST = 1.0
UNREGULARIZED = ("bias", "values")
"""Last parts of the names of what neither decays nor is clipped: biases, those of norms too, and a code's values. A
quantizer's codebooks, which hold the values of other codes, are left alone too, but not its layers."""


def group_options(name: str, weight_decay: float, layers: Container[str] = ()) -> dict[str, Any]:
    """What the parameter `name` belongs to: plain Adam, or element-wise clipping and AdamW. `layers`: names of weights
    of layers, wherever they are."""
    *parents, last = name.split(".")
    plain = last in UNREGULARIZED or ("quantizer" in parents and name not in layers)
    return {"clip_elements": not plain, "weight_decay": 0.0 if plain else weight_decay}


@final
class ElementClippedAdamW(torch.optim.AdamW):
    """AdamW that first clips every gradient element to [-1, 1] in groups with `clip_elements: True`.

    The groups of QLAE (Hsu et al. 2023, released code) are those of `group_options`, with a decay of 0.1 and a learning
    rate of 0.001. The stage's own `clip` comes before it: `clip: 0` is as published.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if group["clip_elements"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.clamp_(-LARGEST, LARGEST)
        super().step(closure)


@hookimpl
def cynosure_build_optimizer(run: Any) -> torch.optim.Optimizer | None:
    """Answers for stages with `optimizer: qlae_adamw`."""
    settings = run.settings
    if settings.optimizer != "qlae_adamw":
        return None
    layers = kernels(run.model)
    groups = parameter_groups(run, lambda name, _: group_options(name, settings.weight_decay, layers))
    return ElementClippedAdamW(groups, lr=settings.lr, betas=settings.betas)
