"""Adafactor as UViM trains with it: a momentum in half memory, second moments of matrices by row and by column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import nn

from cynosure import hookimpl
from cynosure.core.blocks import Shape, published_shapes
from cynosure.core.shards import local, sharded_like, whole
from cynosure.train.groups import kernels, parameter_groups

MIN_FACTORED = 32
"""Tensors whose second largest axis is shorter keep all their second moments."""
EPS = 1e-30
DECAY_POWER = 0.8
Parameters = Sequence[nn.Parameter]


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """The two longest axes, of equal ones the last; None where the shorter of them is below `MIN_FACTORED`."""
    order = sorted(range(len(shape)), key=shape.__getitem__)
    if len(shape) < 2 or shape[order[-2]] < MIN_FACTORED:
        return None
    return order[-2], order[-1]


def _resolved(shape: Shape, wanted: Shape) -> Shape:
    """The shape that `reshape(wanted)` gives."""
    return tuple(torch.empty(shape, device="meta").reshape(wanted).shape)


@final
class Adafactor(torch.optim.Optimizer):
    """The Adafactor variant of Zhai et al. 2022 ("Scaling Vision Transformers", section 3.4; Shazeer & Stern 2018).

    u = momentum of g / sqrt(v), then p -= lr (u + weight_decay p). v averages g^2 + 1e-30 with the factor
    min(betas[1], 1 - (t+1)^-0.8), t steps after the first; where the two longest axes allow (`factored_axes`) only its
    means over each of them are kept, as v = rows x columns / mean. Neither u nor v is clipped or corrected for bias.
    The momentum is kept in bfloat16, and so is its product with betas[0]: 0.9 acts as 0.8984375.

    `shapes` are what parameters are factored as: by default as they are, matrices by row and column. Modules that fuse
    several published arrays in one say how (`published_shapes`), so that every head of every projection and every label
    channel is factored for itself. What remains are biases of panoptic's two label groups: those of the heads are
    factored as one, and the two stems, whose outputs are added, share a single one.
    """

    def __init__(
        self,
        groups: Iterable[Mapping[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        shapes: Mapping[nn.Parameter, Shape] | None = None,
    ) -> None:
        super().__init__([dict(group) for group in groups], {"lr": lr, "betas": betas, "weight_decay": 0.0})
        self.shapes = {p: _resolved(p.shape, s) for p, s in (shapes or {}).items()}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            unfactored = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                if axes := factored_axes(self.shapes.get(p, p.shape)):
                    self._apply([p], [self._factored(p, axes, group["betas"][1])], group)
                else:
                    unfactored.append(p)
            if unfactored:
                self._apply(unfactored, self._unfactored(unfactored, group["betas"][1]), group)

    def _factored(self, p: nn.Parameter, axes: tuple[int, int], cap: float) -> torch.Tensor:
        """The gradient over the root of its second moments; their rows and columns lie along `axes`."""
        assert p.grad is not None
        g = whole(p.grad).float().reshape(self.shapes.get(p, p.shape))  # rows and columns are of whole matrices
        state, (a, b) = self.state[p], axes
        squares = g.square().add_(EPS)
        rows, columns = squares.mean(b, keepdim=True), squares.mean(a, keepdim=True)
        if "rows" not in state:
            state["rows"], state["columns"] = torch.zeros_like(rows), torch.zeros_like(columns)
        weight = 1 - self._decay(p, cap)
        rows = state["rows"].lerp_(rows, weight)
        columns = state["columns"].lerp_(columns, weight)
        scale = (rows / rows.mean(a, keepdim=True)).rsqrt_()
        return local(sharded_like(p, torch.mul(g, scale, out=squares).mul_(columns.rsqrt()).view(p.shape)))

    def _unfactored(self, parameters: Parameters, cap: float) -> list[torch.Tensor]:
        gradients = [local(p.grad).float() for p in parameters if p.grad is not None]
        for p in parameters:
            if "squares" not in self.state[p]:
                self.state[p]["squares"] = torch.zeros_like(p, dtype=torch.float32)
        squares = [local(self.state[p]["squares"]) for p in parameters]
        weights = [1 - self._decay(p, cap) for p in parameters]
        now = torch._foreach_mul(gradients, gradients)
        torch._foreach_add_(now, EPS)
        torch._foreach_mul_(squares, [1 - w for w in weights])
        torch._foreach_mul_(now, weights)
        torch._foreach_add_(squares, now)
        return list(torch._foreach_div(gradients, torch._foreach_sqrt(squares)))

    def _decay(self, p: nn.Parameter, cap: float) -> float:
        """The factor on the old second moments; counts the step. The count is on the CPU: reading it never waits."""
        step = self.state[p].setdefault("step", torch.zeros(()))
        step += 1
        return min(cap, 1 - float(step) ** -DECAY_POWER)

    def _apply(self, parameters: Parameters, updates: list[torch.Tensor], group: Mapping[str, Any]) -> None:
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p, dtype=torch.bfloat16)
        momenta = [local(self.state[p]["momentum"]) for p in parameters]
        beta, lr = group["betas"][0], group["lr"]
        torch._foreach_mul_(momenta, float(torch.tensor(beta, dtype=torch.bfloat16)))
        torch._foreach_mul_(updates, 1 - beta)
        torch._foreach_add_(updates, momenta)
        torch._foreach_copy_(momenta, updates)
        values = [local(p) for p in parameters]
        if group["weight_decay"]:
            torch._foreach_mul_(values, 1 - lr * group["weight_decay"])
        torch._foreach_add_(values, updates, alpha=-lr)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch gives all state the dtype of its parameter; the momentum goes back to bfloat16, which loses nothing."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["momentum"] = state["momentum"].bfloat16()


@hookimpl
def cynosure_build_optimizer(run: Any) -> torch.optim.Optimizer | None:
    """Answers for stages with `optimizer: adafactor`; UViM has `betas: [0.9, 0.95]`.

    `weight_decay` is decoupled: a share of the weight that each step at the peak of the schedule takes off, whatever
    `lr` and `lr_scale`; only `kernels` decay.
    """
    settings = run.settings
    if settings.optimizer != "adafactor":
        return None
    decaying = kernels(run.model)
    groups = parameter_groups(run, lambda name, _: {"weight_decay": settings.weight_decay * (name in decaying)})
    for group in groups:
        group["weight_decay"] /= group["lr"]
    named = dict(run.model.named_parameters())
    shapes = {named[name]: shape for name, shape in published_shapes(run.model).items() if name in named}
    return Adafactor(groups, settings.lr, settings.betas, shapes)
