"""Checks of criteria, on pictures [4, 3, 32, 32] in [-1, 1] that a last layer of three weights has written."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cynosure.core.records import Shapes
from cynosure.testing.checks import Subject, check
from cynosure.testing.samples import CHANNELS, IMAGE_SIZE, ROWS, require_gradients, require_state_round_trip

TASK = next(iter(CHANNELS))


def _build(subject: Subject, seed: int = 0) -> Any:
    return subject.build(Shapes(IMAGE_SIZE, {TASK: 3}), seed=seed)


def _pictures(seed: int) -> torch.Tensor:
    return torch.rand(ROWS, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _judge(criterion: Any, known: bool = True) -> tuple[dict[str, torch.Tensor], nn.Parameter]:
    """The losses of pictures, and the layer that wrote them; `known`: the criterion is told of it."""
    last = nn.Parameter(torch.full((1, 3, 1, 1), 0.5))
    outputs, targets = _pictures(0) * last, _pictures(1)
    reconstruction = (outputs - targets).abs().mean()
    return criterion(outputs, targets, TASK, reconstruction, last if known else None), last


def _total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([loss.float() for loss in losses.values()]).sum()


@check("criterion")
def losses_are_finite_scalars(subject: Subject) -> None:
    losses, _ = _judge(_build(subject).train())
    assert losses, "there is no loss"
    for name, loss in losses.items():
        assert loss.ndim == 0, f"loss '{name}' must be a scalar, not of shape {list(loss.shape)}"
        assert bool(loss.isfinite()), f"loss '{name}' is {float(loss.detach())}"


@check("criterion")
def gradient_reaches_the_model(subject: Subject) -> None:
    for known, what in ((True, "the last layer"), (False, "a last layer that it is not told of")):
        losses, last = _judge(_build(subject).train(), known)
        _total(losses).backward()
        found = last.grad is not None and bool(last.grad.isfinite().all() and last.grad.any())
        assert found, f"no finite gradient reaches {what}; nothing learns from it"


@check("criterion")
def gradient_reaches_every_parameter(subject: Subject) -> None:
    criterion = _build(subject).train()
    require_gradients(criterion, _total(_judge(criterion)[0]))


@check("criterion")
def micro_batches_are_judged_alike(subject: Subject) -> None:
    criterion = _build(subject).train()
    first, second = _judge(criterion)[0], _judge(criterion)[0]
    changed = [name for name in first if not torch.equal(first[name], second[name])]
    assert not changed, f"'{', '.join(changed)}' differs the second time before end_step; learn and count there"


@check("criterion")
def evaluation_changes_nothing(subject: Subject) -> None:
    criterion = _build(subject).eval()
    before = {name: tensor.clone() for name, tensor in criterion.state_dict().items()}
    _judge(criterion)
    changed = [name for name, tensor in criterion.state_dict().items() if not torch.equal(tensor, before[name])]
    assert not changed, f"evaluation changes {', '.join(changed)}"


@check("criterion")
def runs_in_half_precision(subject: Subject) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        total = _total(_judge(_build(subject).train())[0])
    assert bool(total.isfinite()), "the loss under bfloat16 autocast is not finite"


@check("criterion")
def state_survives(subject: Subject) -> None:
    def change(criterion: Any) -> None:
        criterion.train()
        for _ in range(3):
            _judge(criterion)
            criterion.end_step()

    require_state_round_trip(
        lambda seed: _build(subject, seed), lambda criterion: _judge(criterion)[0].values(), change
    )
