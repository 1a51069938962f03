"""Rules between the fields of a recipe: one small function each, on raw data so that all mistakes show at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cynosure.config.yaml import Key
from cynosure.errors import unknown

Finding = tuple[Key, str]


def task_data_exists(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    data = _section(recipe, "data")
    for key, use in _section(recipe, "tasks").items():
        wanted = use.get("data") if isinstance(use, Mapping) else None
        if isinstance(wanted, str) and wanted not in data:
            yield ("tasks", key, "data"), unknown("dataset of this recipe", wanted, data)


def refit_tasks_exist(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    tasks, wanted = _section(recipe, "tasks"), _section(recipe, "train", "refit").get("tasks")
    for i, name in enumerate(wanted if isinstance(wanted, list) else ()):
        if name not in tasks:
            yield ("train", "refit", "tasks", i), unknown("task of this recipe", name, tasks)


def stages_have_their_parts(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    stages, model = _section(recipe, "train").get("stages"), _section(recipe, "model")
    for stage in stages if isinstance(stages, list) else ():
        if stage in ("prior", "refit") and not model.get("prior"):
            yield ("train", "stages"), f"stage '{stage}' needs model.prior; give one or take the stage out"
    if isinstance(stages, list) and len({str(stage) for stage in stages}) < len(stages):
        yield ("train", "stages"), "names a stage twice; keep one"


def prior_has_codes(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    model = _section(recipe, "model")
    if model.get("prior") and not model.get("tokenizer"):
        yield ("model", "prior"), "has no codes to learn; give model.tokenizer or set model.prior to null"


CHECKS = (task_data_exists, refit_tasks_exist, stages_have_their_parts, prior_has_codes)


def _section(recipe: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The mapping at `path`, empty where the recipe has something else there."""
    here: Any = recipe
    for part in path:
        here = here.get(part) if isinstance(here, Mapping) else None
    return here if isinstance(here, Mapping) else {}
