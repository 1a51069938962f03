"""Checks of metrics, on the truths and trivial answers of a task that uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite, isnan
from typing import Any

from cynosure.core.metrics import SumMetric
from cynosure.core.records import Prediction
from cynosure.testing import task as tasks
from cynosure.testing.checks import Subject, check

Made = tuple[Callable[[], Any], list[Prediction], list[Prediction]]


def _material(subject: Subject) -> Made:
    """How to build the metric, with truths and wrong answers; `options` may name the `task` with its own options."""
    named = subject.options.get("task")
    components = subject.host.components
    for name, cls in components.items("task"):
        if named is not None and named["name"] != name:
            continue
        testing: Mapping[str, Any] = getattr(cls, "TESTING", {})
        options = dict(named if named is not None else testing.get("options", {}))
        try:
            task = tasks.build(Subject(subject.host, "task", name, options))
        except Exception:
            if named is not None:
                raise
            continue  # a task that needs options, and is not the one asked for
        if subject.name in task.metrics():
            own = {**task.metrics()[subject.name], **{k: v for k, v in subject.options.items() if k != "task"}}
            batch = tasks.batch_of(task)
            make = lambda: components.build("metric", {**own, "name": subject.name})  # noqa: E731
            return make, task.truth(batch), task.baseline(iter([batch]))(batch)
    raise AssertionError("no registered task reports this metric; name one in the options: {'task': {'name': ...}}")


def _values(metric: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def _same(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return a.keys() == b.keys() and all(
        (isnan(a[k]) and isnan(b[k])) or abs(a[k] - b[k]) <= 1e-5 * max(1, abs(a[k])) for k in a
    )


@check("metric")
def knows_what_nothing_is(subject: Subject) -> None:
    make, _, _ = _material(subject)
    assert _values(make()), "compute() without any update must give its values, NaN where there are none"


@check("metric")
def perfect_answers_have_a_value(subject: Subject) -> None:
    make, truths, _ = _material(subject)
    metric = make()
    metric.update(truths, truths)
    values = _values(metric)
    assert any(isfinite(value) for value in values.values()), f"perfect answers give no finite value: {values}"


@check("metric")
def wrong_answers_count(subject: Subject) -> None:
    make, truths, wrong = _material(subject)
    perfect, poor = make(), make()
    perfect.update(truths, truths)
    poor.update(wrong, truths)
    assert not _same(_values(perfect), _values(poor)), "a trivial answer gets the same values as the truth itself"


@check("metric")
def batches_add_up(subject: Subject) -> None:
    make, truths, wrong = _material(subject)
    whole, parts = make(), make()
    whole.update(wrong, truths)
    for answer, truth in zip(wrong, truths, strict=True):
        parts.update([answer], [truth])
    a, b = _values(whole), _values(parts)
    assert _same(a, b), f"the batch size changes the result: {a} at once, {b} one by one"


@check("metric")
def reset_forgets(subject: Subject) -> None:
    make, truths, wrong = _material(subject)
    metric = make()
    metric.update(wrong, truths)
    metric.reset()
    metric.update(truths, truths)
    fresh = make()
    fresh.update(truths, truths)
    assert _same(_values(metric), _values(fresh)), "reset() leaves something behind"


@check("metric")
def processes_add_up(subject: Subject) -> None:
    make, _, _ = _material(subject)
    metric = make()
    if isinstance(metric, SumMetric):
        return
    reductions = getattr(metric, "_reductions", None)  # torchmetrics: state name -> how processes put it together
    assert reductions is not None, "derive from cynosure.core.metrics.SumMetric or torchmetrics.Metric"
    alone = [name for name, how in reductions.items() if how is None]
    assert not alone, f"states {', '.join(alone)} are not reduced over processes; give add_state a dist_reduce_fx"
