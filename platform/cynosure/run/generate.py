"""Pictures that are made from a caption, a label or nothing: which task of a model makes them, and from what rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from cynosure.core.contracts import Task
from cynosure.errors import CynosureError
from cynosure.run.predictor import MAPS, reads_pictures

if TYPE_CHECKING:
    from cynosure.run.predictor import Predictor

WORDS = {"caption": "prompt", "label": "label", "depth": "depth map", "panoptic": "segmentation"}
"""What people call the columns that pictures are made from."""


def requests(
    predictor: Predictor, task: str | None, prompts: Sequence[str], labels: Sequence[str | int]
) -> tuple[Task, list[dict[str, Any]]]:
    """The task that makes the pictures and its rows, one for every prompt or label, or an empty one.

    Raises CynosureError where no task of the model, or more than one, makes pictures from what is given, and DataError
    for a label that the task does not know.
    """
    given = {name: list(values) for name, values in (("caption", prompts), ("label", labels)) if values}
    chosen = _task(predictor, task, given)
    if extra := [WORDS[name] for name in given if name not in chosen.inputs]:
        raise CynosureError(f"task {chosen.name} takes no {extra[0]}: {_asks(chosen)}")
    if [name for name in chosen.inputs if name not in given]:
        raise CynosureError(f"nothing says what to make: {_asks(chosen)}")
    columns = chosen.inputs
    rows = [dict(zip(columns, values, strict=True)) for values in product(*(given[name] for name in columns))]
    for row in rows:
        chosen.prepare(row, np.random.default_rng(0), False)
    return chosen, rows


def _task(predictor: Predictor, name: str | None, given: Mapping[str, Any]) -> Task:
    if name is not None:
        task = predictor.task(name)
        if reads_pictures(task):
            raise CynosureError(f"task {name} answers about a picture: use `cynosure predict`")
        return task
    able = {key: task for key, task in predictor.tasks.items() if not reads_pictures(task)}
    if not able:
        raise CynosureError(
            f"this model makes no pictures, it knows {', '.join(predictor.tasks)}: train one for generation or "
            "text_to_image"
        )
    fitting = [task for task in able.values() if set(task.inputs) == set(given)]
    if len(fitting) == 1:
        return fitting[0]
    if len(able) > 1:
        raise CynosureError(f"several tasks of this model make pictures, name one with task: {', '.join(able)}")
    return next(iter(able.values()))


def _asks(task: Task) -> str:
    """What a task makes pictures from, as a sentence."""
    if not task.inputs:
        return f"task {task.name} makes pictures out of nothing"
    asked = f"task {task.name} makes pictures from a {' and a '.join(WORDS.get(name, name) for name in task.inputs)}"
    return asked + (", whose file `cynosure predict` reads" if any(name in MAPS for name in task.inputs) else "")
