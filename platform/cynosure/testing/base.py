"""Checks of base models f(x, z)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cynosure.testing.checks import Subject, check
from cynosure.testing.samples import (
    CHANNELS,
    CODE_DIM,
    IMAGE_SIZE,
    ODD_SIZE,
    ROWS,
    built_at_odd_size,
    inputs,
    loosen,
    one_row,
    require_gradients,
    require_same,
    require_state_round_trip,
    require_unchanged,
    shapes,
)


def _build(subject: Subject, seed: int = 0) -> Any:
    return subject.build(shapes(), seed=seed)


def _vectors(seed: int = 0) -> torch.Tensor:
    return torch.randn(ROWS, 4, CODE_DIM, generator=torch.Generator().manual_seed(seed))


@check("base")
def output_has_the_task_s_shape(subject: Subject) -> None:
    base = _build(subject)
    for task, channels in CHANNELS.items():
        for what, vectors in (("codes", _vectors()), ("dropped codes", 0 * _vectors())):
            got, wanted = tuple(base(inputs(), vectors, task).shape), (ROWS, channels, *IMAGE_SIZE)
            assert got == wanted, f"with {what} the output of task {task} must be {wanted}, not {got}"


@check("base")
def works_without_codes(subject: Subject) -> None:
    base = _build(subject).eval()
    for task, channels in CHANNELS.items():
        got, wanted = tuple(base(inputs(), None, task).shape), (ROWS, channels, *IMAGE_SIZE)
        assert got == wanted, f"without codes the output of task {task} must be {wanted}, not {got}"


@check("base")
def codes_matter(subject: Subject) -> None:
    base = loosen(_build(subject)).eval()
    for task in CHANNELS:
        change = (base(inputs(), _vectors(0), task) - base(inputs(), _vectors(1), task)).abs().max()
        assert float(change.detach()) > 1e-5, f"the output of task {task} ignores the code vectors"


class Watched(dict[str, Any]):
    """Inputs that know what was read of them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


@check("base")
def picture_matters(subject: Subject) -> None:
    """To a base that reads it; one of generation need not."""
    base = loosen(_build(subject)).eval()
    for task in CHANNELS:
        given = Watched(inputs(0))
        output = base(given, _vectors(), task)
        if "image" in given.read:
            change = (output - base({**inputs(0), "image": inputs(1)["image"]}, _vectors(), task)).abs().max()
            assert float(change.detach()) > 1e-6, f"the output of task {task} ignores the picture that it reads"


@check("base")
def output_is_float32(subject: Subject) -> None:
    base = _build(subject)
    for task in CHANNELS:
        for vectors in (_vectors(), None):
            found = base(inputs(), vectors, task).dtype
            assert found == torch.float32, f"the output of task {task} must be float32, not {found}"


@check("base")
def what_is_given_stays_as_it_is(subject: Subject) -> None:
    base, given, vectors = loosen(_build(subject)), inputs(), _vectors()
    with require_unchanged({**given, "vectors": vectors}):
        for mode in (True, False):
            for task in CHANNELS:
                base.train(mode)(given, vectors, task)


@check("base")
def gradient_reaches_the_vectors(subject: Subject) -> None:
    """Else the tokenizer behind them learns nothing."""
    base = loosen(_build(subject)).train()
    for task in CHANNELS:
        vectors = _vectors().requires_grad_()
        base(inputs(), vectors, task).square().sum().backward()
        found = vectors.grad is not None and bool(vectors.grad.isfinite().all()) and bool(vectors.grad.any())
        assert found, f"no finite gradient of task {task} reaches the code vectors; the tokenizer would learn nothing"


@check("base")
def gradient_reaches_every_parameter(subject: Subject) -> None:
    base = loosen(_build(subject)).train()
    outputs = [base(inputs(), _vectors(), task) for task in CHANNELS]
    require_gradients(base, torch.stack([(x * torch.randn_like(x)).sum() for x in outputs]).sum())


@check("base")
def last_layer_writes_the_output(subject: Subject) -> None:
    base: Any = loosen(_build(subject))
    for task in CHANNELS:
        layer = base.last_layer(task)
        if layer is not None:
            outputs = base(inputs(), _vectors(), task)
            (found,) = torch.autograd.grad(outputs.square().sum(), layer.weight, allow_unused=True)
            assert found is not None and bool(found.any()), f"the output of task {task} is not made by its last_layer"


@check("base")
def evaluation_is_deterministic(subject: Subject) -> None:
    base = loosen(_build(subject)).eval()
    for task in CHANNELS:
        first, second = (base(inputs(), _vectors(), task) for _ in range(2))
        assert torch.equal(first, second), "evaluation gives another output the second time"


@check("base")
def rows_are_independent(subject: Subject) -> None:
    base = loosen(_build(subject)).eval()
    for task in CHANNELS:
        together = base(inputs(), _vectors(), task)[2:3]
        alone = base(one_row(inputs(), 2), _vectors()[2:3], task)
        require_same(together, alone, "a row's output depends on the rows beside it")


@check("base")
def runs_in_half_precision(subject: Subject) -> None:
    base = loosen(_build(subject))
    with torch.autocast("cpu", torch.bfloat16):
        for task in CHANNELS:
            output = base(inputs(), _vectors(), task)
            assert bool(output.isfinite().all()), "the output under bfloat16 autocast is not finite"


@check("base")
def state_survives(subject: Subject) -> None:
    def use(base: Any) -> Any:
        return [base(inputs(), _vectors(), task) for task in CHANNELS]

    require_state_round_trip(lambda seed: _build(subject, seed), use, loosen)


@check("base")
def takes_or_refuses_odd_sizes(subject: Subject) -> None:
    base = built_at_odd_size(subject.build, shapes())
    for task, channels in CHANNELS.items() if base is not None else ():
        got, wanted = tuple(base(inputs(size=ODD_SIZE), _vectors(), task).shape), (ROWS, channels, *ODD_SIZE)
        assert got == wanted, f"the output for pictures of {ODD_SIZE} pixels must be {wanted}, not {got}"


@check("base")
def works_under_autocast(subject: Subject) -> None:
    base = loosen(_build(subject)).train()
    for task in CHANNELS:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = base(inputs(), _vectors(), task)
        assert bool(outputs.isfinite().all()), "the output is not finite under bf16 autocast"
