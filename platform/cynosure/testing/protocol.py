"""Checks of evaluation protocols, on synthetic rows and the trivial answers of a task that they measure.

Rows have 37 x 53 pixels and every canonical column; `TESTING = {"size": (H, W)}` asks for others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from cynosure.core.contracts import Protocol, Task
from cynosure.core.records import Batch, Prediction, SampleSettings
from cynosure.data.loading import batches_with_rows
from cynosure.errors import CynosureError
from cynosure.testing import task as tasks
from cynosure.testing.checks import Subject, check
from cynosure.testing.samples import ROWS


@dataclass(frozen=True)
class Material:
    """A protocol with the task it measures, the dataset's rows, and the batch that the model is shown of them."""

    protocol: Protocol
    task: Task
    rows: list[Mapping[str, Any]]
    batch: Batch

    def truths(self) -> list[Prediction]:
        return [self.protocol.truth(each) for each in self.rows]

    def trivial_answers(self) -> list[Prediction]:
        predictions = self.task.baseline(iter([self.batch]))(self.batch)
        return [self.protocol.answer(p, each) for p, each in zip(predictions, self.rows, strict=True)]


def _rows(subject: Subject, task: Task) -> list[Mapping[str, Any]]:
    testing: Mapping[str, Any] = getattr(subject.cls, "TESTING", {})
    return [tasks.row_of(task, seed, testing.get("size", (37, 53)), thing=2 + seed % 2) for seed in range(ROWS)]


def _material(subject: Subject) -> Material:
    for name in subject.cls.tasks:
        with suppress(CynosureError):  # a task that is not registered, or needs options
            options = getattr(subject.host.components.get("task", name), "TESTING", {}).get("options", {})
            task = tasks.build(Subject(subject.host, "task", name, options))
            protocol = subject.build(task)
            return _shown(protocol, task, _rows(subject, task))
    raise AssertionError(f"none of the tasks it measures can be built: {', '.join(subject.cls.tasks)}")


def _shown(protocol: Protocol, task: Task, rows: list[Mapping[str, Any]]) -> Material:
    transforms = [lambda example, rng: protocol.example(example)]
    batch, rows = next(batches_with_rows(task, rows, ROWS, transforms=transforms, shown=protocol.row))
    return Material(protocol, task, rows, batch)


def _values(subject: Subject, material: Material, answers: list[Prediction]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, options in material.protocol.metrics().items():
        metric = subject.host.components.build("metric", {"name": name, **options})
        metric.update(answers, material.truths())
        values |= {key: float(value) for key, value in metric.compute().items()}
    return values


@check("protocol")
def sampling_is_valid(subject: Subject) -> None:
    SampleSettings(**subject.cls.sampling)


@check("protocol")
def rows_are_left_as_they_are(subject: Subject) -> None:
    material = _material(subject)
    material.truths()
    material.trivial_answers()
    for given, untouched in zip(material.rows, _rows(subject, material.task), strict=True):
        changed = [name for name in untouched if not np.array_equal(given[name], untouched[name])]
        assert not changed, f"the protocol changes the row's {', '.join(changed)}; give new arrays"


@check("protocol")
def answers_and_truths_have_one_size(subject: Subject) -> None:
    material = _material(subject)
    for answer, truth in zip(material.trivial_answers(), material.truths(), strict=True):
        shared = [name for name in answer.values if name in truth.values]
        assert shared, f"answers have {', '.join(answer.values)} but truths {', '.join(truth.values)}"
        for name in shared:
            got, wanted = np.shape(answer.values[name]), np.shape(truth.values[name])
            assert got == wanted, f"'{name}' has shape {list(got)} in answers and {list(wanted)} in truths"


@check("protocol")
def the_truth_beats_a_trivial_answer(subject: Subject) -> None:
    material = _material(subject)
    truths = material.truths()
    perfect, poor = (_values(subject, material, answers) for answers in (truths, material.trivial_answers()))
    assert any(isfinite(value) for value in perfect.values()), f"true answers give no finite value: {perfect}"
    assert perfect != poor, "a trivial answer gets the same values as the truth itself"


@check("protocol")
def answers_can_be_saved(subject: Subject) -> None:
    material = _material(subject)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "answers"
        answers = enumerate(zip(material.trivial_answers(), material.rows, strict=True))
        saved = [material.protocol.save(answer, each, number, folder) for number, (answer, each) in answers]
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert len(files) >= ROWS, f"save wrote {len(files)} files for {ROWS} rows; name them apart"
        material.protocol.index(saved, folder)
