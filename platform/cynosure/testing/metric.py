"""Checks of metrics, on the truths and trivial answers of a task that uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import isfinite, isnan
from typing import Any

import torch

from cynosure.core.contracts import Task
from cynosure.core.metrics import Metric
from cynosure.core.records import Prediction
from cynosure.errors import CynosureError
from cynosure.testing import task as tasks
from cynosure.testing.checks import Subject, check, needed
from cynosure.testing.ranks import AVAILABLE, State, on_two_ranks


@dataclass(frozen=True)
class Material:
    """A new metric from `make`, and a task's truths and trivial answers to feed it."""

    make: Callable[[], Any]
    truths: list[Prediction]
    wrong: list[Prediction]


def _material(subject: Subject) -> Material:
    """From the first task that reports the metric; `options` may name the `task`, with its own options."""
    components = subject.host.components
    for task in _tasks(subject):
        if subject.name in task.metrics() or "task" in subject.options:
            asked = {key: value for key, value in subject.options.items() if key != "task"}
            options = {**task.metrics().get(subject.name, {}), **asked, "name": subject.name}
            tasks.require_columns(task)
            batch = tasks.batch_of(task)
            answer = task.baseline(iter([batch]))
            return Material(partial(components.build, "metric", options), task.truth(batch), answer(batch))
    raise AssertionError("no registered task reports this metric; name one in the options: {'task': {'name': ...}}")


def _tasks(subject: Subject) -> Iterator[Task]:
    if named := subject.options.get("task"):
        yield tasks.build(Subject(subject.host, "task", named["name"], named))
        return
    for name, cls in subject.host.components.items("task"):
        options = getattr(cls, "TESTING", {}).get("options", {})
        with suppress(CynosureError):  # a task that needs options
            yield tasks.build(Subject(subject.host, "task", name, options))


def _values(metric: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def _same(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return a.keys() == b.keys() and all(
        (isnan(a[k]) and isnan(b[k])) or abs(a[k] - b[k]) <= 1e-5 * max(1, abs(a[k])) for k in a
    )


@needed("metric")
def answers_are_known(subject: Subject) -> None:
    _material(subject)


@check("metric")
def knows_what_nothing_is(subject: Subject) -> None:
    make = _material(subject).make
    assert _values(make()), "compute() without any update must give its values, NaN where there are none"


@check("metric")
def perfect_answers_have_a_value(subject: Subject) -> None:
    material = _material(subject)
    make, truths = material.make, material.truths
    metric = make()
    metric.update(truths, truths)
    values = _values(metric)
    assert any(isfinite(value) for value in values.values()), f"perfect answers give no finite value: {values}"


@check("metric")
def wrong_answers_count(subject: Subject) -> None:
    material = _material(subject)
    make, truths, wrong = material.make, material.truths, material.wrong
    perfect, poor = make(), make()
    perfect.update(truths, truths)
    poor.update(wrong, truths)
    assert not _same(_values(perfect), _values(poor)), "a trivial answer gets the same values as the truth itself"


@check("metric")
def batches_add_up(subject: Subject) -> None:
    material = _material(subject)
    make, truths, wrong = material.make, material.truths, material.wrong
    whole, parts = make(), make()
    whole.update(wrong, truths)
    for answer, truth in zip(wrong, truths, strict=True):
        parts.update([answer], [truth])
    a, b = _values(whole), _values(parts)
    assert _same(a, b), f"the batch size changes the result: {a} at once, {b} one by one"


@check("metric")
def reset_forgets(subject: Subject) -> None:
    material = _material(subject)
    make, truths, wrong = material.make, material.truths, material.wrong
    metric = make()
    metric.update(wrong, truths)
    metric.reset()
    metric.update(truths, truths)
    fresh = make()
    fresh.update(truths, truths)
    assert _same(_values(metric), _values(fresh)), "reset() leaves something behind"


@check("metric")
def processes_add_up(subject: Subject) -> None:
    material = _material(subject)
    metric = material.make()
    if isinstance(metric, Metric):
        _require_sums_over_ranks(material)
        return
    reductions = getattr(metric, "_reductions", None)  # torchmetrics: state name -> how processes put it together
    assert reductions is not None, "derive from cynosure.core.metrics or torchmetrics.Metric"
    alone = [name for name, how in reductions.items() if how is None]
    assert not alone, f"states {', '.join(alone)} are not reduced over processes; give add_state a dist_reduce_fx"


def _require_sums_over_ranks(material: Material) -> None:
    """Two processes that see a half each give the values of one that sees all."""

    def half(rank: int) -> State:
        metric, own = material.make(), slice(rank, None, 2)
        metric.update(material.wrong[own], material.truths[own])
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in _values(metric).items()}

    if not AVAILABLE:
        return
    whole = material.make()
    whole.update(material.wrong, material.truths)
    for rank, found in enumerate(on_two_ranks(half)):
        a, b = _values(whole), {name: float(value) for name, value in found.items()}
        told = f"of two processes that see a half each, rank {rank} gets {b}; one that sees all gets {a}"
        assert _same(a, b), f"{told}; put what they saw together with cynosure.core.metrics.gathered"
