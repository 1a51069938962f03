"""Checkpoints of other systems become a run's folder, which `load`, `predict` and `eval` take as one of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from cynosure.build import build_model
from cynosure.config.recipe import Recipe, make_recipe
from cynosure.config.yaml import Document, dump_yaml, merge, parse_yaml
from cynosure.core.contracts import Importer
from cynosure.core.initial import initial_weights
from cynosure.core.records import Imported
from cynosure.errors import CheckpointError
from cynosure.host import Host
from cynosure.progress import Progress
from cynosure.train.checkpoint import MODEL, differences, read_metadata, shapes_of, write_text
from cynosure.train.saving import FORMAT, RECIPE
from cynosure.train.streaming import lazy_tensors, stream_tensors


def convert(
    source: str,
    files: Sequence[Path],
    directory: Path,
    host: Host,
    sets: Sequence[str] = (),
    progress: Progress | None = None,
) -> Imported:
    """Read `files` with the importer named `source`, write model and recipe into `directory`, return what is there now.

    A folder that holds other parts of a converted model is completed. Without a base model there is no recipe to
    complete: what the files decide is written as it is, and the tensors serve to start a training from. `sets` are
    values of the recipe, like 'data.coco.root=PATH'. One tensor is in memory at a time.

    Raises CheckpointError when a file is not what it should be, parts do not fit each other, or the folder already
    holds such parts; ConfigError for wrong `sets`.
    """
    importer: Importer = host.components.build("importer", source)
    imported = importer.read(files)
    target = directory / MODEL
    if target.is_file():
        imported = _joined(_converted(target), imported, target)
    if "base" in imported.parts:
        recipe = make_recipe(imported.recipe, sets, host)
        require_fit(recipe, imported, host)
        text = recipe.to_yaml()
    elif sets:
        raise CheckpointError(
            "--set changes the recipe of a model, and without a base model there is none: leave it out."
        )
    else:
        text = dump_yaml(dict(imported.recipe))
    told = {"format": FORMAT, "recipe": text, "plugins": json.dumps(host.versions()), "parts": " ".join(imported.parts)}
    stream_tensors(target, imported.tensors, told, progress or Progress())
    write_text(directory / RECIPE, text)
    return imported


def _converted(file: Path) -> Imported:
    """What an earlier conversion wrote."""
    told = read_metadata(file)
    if told.get("format") != FORMAT or "parts" not in told:
        raise CheckpointError(f"{file} was not made by `cynosure convert`: convert into another folder.")
    return Imported(parse_yaml(told["recipe"], str(file)).data, lazy_tensors(file))


def _joined(old: Imported, new: Imported, file: Path) -> Imported:
    """One model of two halves."""
    if both := [part for part in new.parts if part in old.parts]:
        raise CheckpointError(f"{file} already holds {' and '.join(both)}: convert into another folder, or remove it.")
    tasks = [set(each.recipe.get("tasks", {})) for each in (old, new)]
    if all(tasks) and not tasks[0] & tasks[1]:
        here, there = (" and ".join(sorted(names)) for names in tasks)
        raise CheckpointError(
            f"{file} is of a model for {here}, and these files are of one for {there}: convert all files of that model "
            "at once, into another folder."
        )
    recipe = merge(Document(old.recipe), Document(new.recipe)).data
    return Imported(recipe, {**old.tensors, **new.tensors}, new.notes)


def require_fit(recipe: Recipe, imported: Imported, host: Host) -> None:
    """Raises CheckpointError unless the tensors are those of the recipe's model, by name and shape."""
    with torch.device("meta"), initial_weights(False):
        wanted = shapes_of(build_model(recipe, host).state_dict())
    if found := differences(wanted, {name: lazy.shape for name, lazy in imported.tensors.items()}):
        raise CheckpointError(f"these parts make no model: {'; '.join(found)}. Are they of one model and one task?")
