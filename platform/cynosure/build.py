"""From a recipe to datasets, tasks and a model; the one place where parts meet their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cynosure.core.contracts import Dataset, DatasetInfo, Prior, Task
from cynosure.core.decoding import check_settings
from cynosure.core.guided import GuidedModel
from cynosure.core.records import Shapes
from cynosure.errors import ConfigError, CynosureError, DataError, Problem
from cynosure.run.sampling import sample_settings

if TYPE_CHECKING:
    from cynosure.config.recipe import Recipe
    from cynosure.host import Host


class Gone(Dataset):
    """Stands for data that are not there, of tasks that a model keeps and no longer learns."""

    def __init__(self, error: DataError) -> None:
        self.error = error

    @property
    def info(self) -> DatasetInfo:
        raise self.error

    def rows(self, split: str) -> Sequence[Mapping[str, Any]]:
        raise self.error


def build_datasets(recipe: Recipe, host: Host) -> dict[str, Dataset]:
    """The recipe's named datasets; raises DataError for one that is not there, unless only tasks of weight 0 use it."""
    found: dict[str, Dataset] = {}
    for name, options in recipe.data.items():
        weights = [task.weight for task in recipe.tasks.values() if task.data == name]
        try:
            found[name] = host.components.build("dataset", options)
        except DataError as error:
            if any(weights) or not weights:
                raise
            found[name] = Gone(error)
    return found


def complete(recipe: Recipe, datasets: Mapping[str, Dataset], host: Host) -> Recipe:
    """The recipe with what tasks take from their datasets (such as class names) filled in."""
    options = {}
    for key, task in recipe.tasks.items():
        if task.data not in datasets:
            continue  # in a dry run without the data
        kind = host.components.get("task", task.name)
        try:
            info = datasets[task.data].info
        except DataError:
            if task.weight:
                raise
            continue  # what a task has learnt from may be gone
        missing = [f for f in kind.fields if f not in info.fields]
        if missing:
            raise CynosureError(
                f"task {key} needs {', '.join(missing)}, which dataset {task.data} lacks: "
                f"it has {', '.join(info.fields)}."
            )
        options[key] = kind.configure(task.options, info)
    return recipe.with_task_options(options)


def build_tasks(recipe: Recipe, host: Host) -> dict[str, Task]:
    """The recipe's tasks by key; each knows its key as `name`."""
    tasks = {}
    for key, options in recipe.tasks.items():
        task = host.components.build("task", options.options, recipe.image_size)
        task.name = key
        tasks[key] = task
    return tasks


def build_model(recipe: Recipe, host: Host) -> GuidedModel:
    """The model of a completed recipe; a plugin's cynosure_build_model may answer first."""
    return host.build_model(recipe) or _build(recipe, host)


def _build(recipe: Recipe, host: Host) -> GuidedModel:
    build = host.components.build
    tasks = build_tasks(recipe, host)
    shapes = Shapes(recipe.image_size, {name: task.channels for name, task in tasks.items()})
    model = recipe.model
    tokenizer = prior = None
    try:
        if model.tokenizer is not None:
            options = dict(model.tokenizer)
            quantizer = build("quantizer", options.pop("quantizer"))
            tokenizer = build("tokenizer", options, shapes, quantizer)
            code = (tokenizer.spec, tokenizer.code_dim, tokenizer.code_positions)
            shapes = Shapes(shapes.image_size, shapes.channels, *code)
        base = build("base", model.base, shapes)
        if model.prior is not None:
            options = dict(model.prior)
            encoder = options.pop("encoder", None)
            prior = build("prior", options, shapes, build("encoder", encoder, shapes) if encoder else None)
            _check_sampling(recipe, prior, shapes)
        if model.criteria and (wrong := [name for name, task in tasks.items() if not task.judgeable]):
            raise ValueError(f"criteria cannot judge the outputs of task {', '.join(wrong)}, which are no pictures yet")
        criteria = [build("criterion", options, shapes) for options in model.criteria or ()]
    except ValueError as error:
        raise ConfigError([Problem("", "model", str(error))]) from error
    weights = {key: task.loss_weight for key, task in recipe.tasks.items()}
    prior_weights = {key: task.prior_weight for key, task in recipe.tasks.items()}
    return GuidedModel(tasks, shapes, base, tokenizer, prior, model.code_dropout, weights, criteria, prior_weights)


def _check_sampling(recipe: Recipe, prior: Prior, shapes: Shapes) -> None:
    """ConfigError, before anything is trained, for a recipe that samples in a way that its prior cannot follow."""
    assert shapes.spec is not None
    try:
        check_settings(sample_settings(recipe), prior, shapes.spec)
    except CynosureError as error:
        raise ConfigError([Problem("", "eval.sampling", str(error))]) from None


@dataclass
class Session:
    """Everything that a run works with: the completed recipe, its plugins, its data."""

    recipe: Recipe
    host: Host
    datasets: dict[str, Dataset]

    @classmethod
    def open(cls, recipe: Recipe, host: Host) -> Session:
        datasets = build_datasets(recipe, host)
        return cls(complete(recipe, datasets, host), host, datasets)

    def rows(self, task: str, split: str) -> Any:
        """Rows of the dataset that a task uses."""
        return self.datasets[self.recipe.tasks[task].data].rows(split)
