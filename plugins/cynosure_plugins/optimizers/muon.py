"""Muon: momentum steps of orthogonal matrices; small models learn about a third faster with it than with AdamW."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, final

import torch
from torch import nn

from cynosure import hookimpl
from cynosure.core.shards import sharded_like, whole
from cynosure.train.groups import layers, parameter_groups

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
OUTER = ("*.head", "*.text_head", "*.heads.*", "*.classifiers.*", "*.quantizer.project", "*.stems.*")
"""Names of layers that write the output, a row for each thing it may be, or read what differs from task to task."""


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices [n, r, c] -> nearly the orthogonal factors U V^T of their singular value decompositions.

    Five steps of a quintic Newton-Schulz iteration (Jordan et al. 2024, "Muon"), whose singular values land in
    [0.7, 1.2]: enough for an optimizer, at the cost of a few matrix products.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


@final
class Muon(torch.optim.Optimizer):
    """Muon for groups with `matrices: True`, which hold matrices and convolution kernels, AdamW for the others.

    A matrix update is scaled to the root mean square of an AdamW update (0.2 sqrt(max(r, c)), Liu et al. 2025), so one
    learning rate serves both.
    """

    def __init__(
        self,
        groups: Iterable[Mapping[str, Any]],
        lr: float,
        betas: tuple[float, float],
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "momentum": momentum, "eps": 1e-8, "weight_decay": 0.0}
        super().__init__([dict(group) for group in groups], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["matrices"]:
                self._step_matrices(parameters, group)
            else:
                self._step_others(parameters, group)

    def _step_matrices(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, torch.Tensor]]] = defaultdict(list)
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = whole(p.grad.lerp(state["momentum"], group["momentum"])).flatten(1)  # Nesterov
            by_shape[update.shape[0], update.shape[1]].append((p, update))
        for shape, members in by_shape.items():
            updates = orthogonalize(torch.stack([u for _, u in members]).float())
            scale = 0.2 * max(shape) ** 0.5
            for (p, _), update in zip(members, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(sharded_like(p, update.view(p.shape).to(p.dtype)), alpha=-group["lr"] * scale)

    def _step_others(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if "step" not in state:
                state["step"] = torch.zeros(())
                state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            steps = float(state["step"])
            state["mean"].lerp_(p.grad, 1 - beta1)
            state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            scale = (state["square"] / (1 - beta2**steps)).sqrt_().add_(group["eps"])
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.addcdiv_(state["mean"], scale, value=-group["lr"] / (1 - beta1**steps))


@hookimpl
def cynosure_build_optimizer(run: Any) -> torch.optim.Optimizer | None:
    """Answers for stages with `optimizer: muon`, which steps the weights of linear layers and convolutions.

    All else goes to AdamW, as its authors advise: OUTER layers, and embeddings, codebooks and other tables, whose rows
    are vectors of their own. An orthogonal step moves every row, those of codes that no picture has too.
    """
    settings = run.settings
    if settings.optimizer != "muon":
        return None
    matrices = {
        id(layer.weight)
        for name, layer in layers(run.model)
        if not any(fnmatchcase(f".{name}", outer) for outer in OUTER)
    }

    def options(name: str, p: nn.Parameter) -> dict[str, Any]:
        inner = id(p) in matrices
        return {"matrices": inner, "weight_decay": settings.weight_decay if inner else 0.0}

    return Muon(parameter_groups(run, options), settings.lr, settings.betas)
