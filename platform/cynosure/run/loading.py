"""From a run folder or a model file to a `Predictor`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cynosure.build import build_model
from cynosure.components import PARTS_OF
from cynosure.config.recipe import Recipe
from cynosure.config.yaml import parse_yaml
from cynosure.core.initial import initial_weights
from cynosure.errors import CheckpointError
from cynosure.host import Host, describe, load_host
from cynosure.run.predictor import Predictor
from cynosure.train.checkpoint import load_state, model_file, read_tensors
from cynosure.train.groups import begins
from cynosure.train.saving import FORMAT, prior_trained

if TYPE_CHECKING:
    from cynosure.registry import Registry


def load(
    path: str | Path,
    registry: Path | Registry | None = None,
    device: torch.device | str | None = None,
    host: Host | None = None,
) -> Predictor:
    """The trained model of a run folder, or of one of its files, ready to predict.

    Only plugins that the registry trusts are imported, whatever the file says. `device` defaults to CUDA where there is
    one.

    Raises CheckpointError when there is no model, the file was not written by Cynosure, a component that it needs is
    not registered, or the weights do not fit.
    """
    file = model_file(Path(path).expanduser())
    tensors, told = read_tensors(file)
    _require_base(told, file)
    recipe = _recipe(told, file)
    host = host or load_host(registry)
    if missing := [part for part in _parts(recipe) if part[1] not in host.components.names(part[0])]:
        trained_with = json.loads(told.get("plugins", "{}"))
        raise CheckpointError(f"{file} needs {_needs(missing)}: {_remedy(trained_with, host)}.")
    with initial_weights(False):
        model = build_model(_without_criteria(recipe), host)
    load_state(model, {name: t for name, t in tensors.items() if not begins(name, "criteria")}, file)
    model.set_stage(None)
    if not prior_trained(told):
        model.prior = None  # better no answer than one at random
    return Predictor(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), recipe, host)


def _require_base(told: Mapping[str, str], file: Path) -> None:
    """Files of `cynosure convert` say which parts they hold."""
    if "parts" in told and "base" not in told["parts"].split():
        raise CheckpointError(
            f"{file} holds only {told['parts'].replace(' ', ' and ')}, no base model: "
            "convert the files of the base model into the same folder, or start a training from it with init.from."
        )


def _recipe(told: Mapping[str, str], file: Path) -> Recipe:
    if told.get("format") != FORMAT:
        what = f"is of format '{told['format']}'" if "format" in told else "is a foreign file without a recipe"
        raise CheckpointError(f"{file} {what}, not '{FORMAT}': give a run that `cynosure train` wrote.")
    try:
        return Recipe.model_validate(parse_yaml(told["recipe"], str(file)).data)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the recipe inside {file} cannot be read by this version: {error}") from error


def _without_criteria(recipe: Recipe) -> Recipe:
    """Predicting needs none of them, nor the files that their networks come from."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"criteria": None})})


def _parts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(kind, name) of every component that the model is built of; datasets are not needed to predict."""
    for task in recipe.tasks.values():
        yield "task", task.name
    for kind in ("tokenizer", "base", "prior"):
        options: dict[str, Any] | None = getattr(recipe.model, kind)
        if options:
            yield kind, options["name"]
            for option, inner in PARTS_OF.get(kind, {}).items():
                if part := options.get(option):
                    yield inner, part if isinstance(part, str) else part["name"]


def _needs(missing: list[tuple[str, str]]) -> str:
    return ", ".join(f"{kind} '{name}'" for kind, name in dict.fromkeys(missing))


def _remedy(trained_with: Mapping[str, str], host: Host) -> str:
    """What to do so that the plugins of training are there again."""
    loaded, failed = {p.name for p in host.plugins}, {f.name: f for f in host.failures}
    advice = []
    for name, version in trained_with.items():
        if name in failed:
            advice.append(describe(failed[name]))
        elif name in host.registry.plugins and name not in loaded:
            advice.append(f"its plugin '{name}' is disabled: set 'enabled: true' in registry.yaml")
        elif name not in loaded:
            what = f"'{name}' {version}".strip()
            advice.append(f"its plugin {what} is unknown here: install it and add it to registry.yaml")
    return "; ".join(advice) or "one of its plugins has dropped it since: install the plugin's older version"
