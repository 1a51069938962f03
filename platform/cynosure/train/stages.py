"""What each stage trains on: rows for `codes`, rows with the oracle's codes for `prior`, sampled codes for `refit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cynosure.core.records import Batch, Codes, SampleSettings
from cynosure.data.loading import TaskData
from cynosure.data.mixing import Mixture, mixture_weights
from cynosure.errors import DataError, TrainingError
from cynosure.train.codecache import cached_codes, data_digest, model_digest
from cynosure.train.sharding import gathered

if TYPE_CHECKING:
    from cynosure.config.recipe import Recipe
    from cynosure.core.guided import Stage
    from cynosure.train.loop import Run

CACHE = "cache"


def check_data(run: Run) -> None:
    """Find out before hours of training what a later stage would stumble over; say what is unusual."""
    recipe = run.recipe
    check_stages(recipe, run.accelerator.num_processes)
    for key, use in recipe.tasks.items():
        if use.weight == 0:
            continue
        if recipe.train.eval_every:
            run.session.rows(key, recipe.eval.split)
        rows = run.session.rows(key, "train")
        if not hasattr(rows, "__getitem__"):
            check_streaming(recipe, key)
        elif len(rows) == 0:
            raise DataError(f"task {key} has nothing to learn from: dataset {use.data} holds no training row.")
        elif len(rows) < use.batch_size:
            run.progress.say(f"task {key}: batch_size {use.batch_size} repeats rows, there are only {len(rows)}.")


def check_streaming(recipe: Recipe, key: str) -> None:
    """Raises TrainingError where a task that streams its rows cannot be trained as the recipe says."""
    refit = recipe.train.refit
    if "refit" in recipe.train.stages and refit.steps and key in (refit.tasks or recipe.tasks):
        raise TrainingError(
            f"stage refit keeps the codes of its rows, but task {key} streams them: set streaming: false for "
            f"dataset {recipe.tasks[key].data}, or leave the task out of train.refit.tasks."
        )
    if recipe.mixing.by != "weight":
        raise TrainingError(
            f"mixing.by: {recipe.mixing.by} counts rows, but task {key} streams them: set mixing.by to weight."
        )


def check_stages(recipe: Recipe, processes: int) -> None:
    """What the settings of the stages must have, whatever the data; raises TrainingError."""
    stages = [stage for stage in recipe.train.stages if getattr(recipe.train, stage).steps]
    for stage in stages:
        micro_batches_per_step(recipe, stage, processes)
    if "refit" in stages and not recipe.train.prior.views:
        raise TrainingError("stage refit keeps the codes of its rows: set train.prior.views to 1 or more.")


def stage_tasks(recipe: Recipe, stage: Stage) -> list[str]:
    """Keys of the tasks that a stage trains."""
    chosen = recipe.train.refit.tasks if stage == "refit" else None
    return [key for key in chosen or recipe.tasks if recipe.tasks[key].weight > 0]


def micro_batches_per_step(recipe: Recipe, stage: Stage, processes: int) -> int:
    """How many micro-batches every process accumulates: as the stage says, or as many as make up its `global_batch`.

    Raises TrainingError when no number of them does, saying what would.
    """
    settings = getattr(recipe.train, stage)
    wanted: int | None = settings.global_batch
    if wanted is None:
        return int(settings.accumulate)
    where = f"train.{stage}.global_batch: {wanted}"
    sizes = {key: recipe.tasks[key].batch_size for key in stage_tasks(recipe, stage)}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise TrainingError(f"{where} needs tasks of one batch_size ({listed}): make them equal, or use accumulate.")
    if wanted % processes:
        raise TrainingError(f"{where} cannot be shared by {processes} processes: make it a multiple of {processes}.")
    size, share = next(iter(sizes.values())), wanted // processes
    if share % size:
        fitting = [n for n in range(1, share + 1) if share % n == 0]
        near = [*[n for n in fitting if n < size][-1:], *[n for n in fitting if n > size][:1]]
        raise TrainingError(
            f"{where} is no multiple of batch_size {size} times {processes} processes: "
            f"set batch_size to {' or '.join(map(str, near))}."
        )
    return share // size


def stage_data(run: Run) -> dict[str, TaskData]:
    """Training rows by task for the present stage."""
    recipe = run.recipe
    data = {}
    for key in stage_tasks(recipe, run.stage):
        task, rows = run.model.tasks[key], run.session.rows(key, "train")
        transforms = run.host.transforms(task, "train")
        data[key] = TaskData(task, rows, recipe.tasks[key].batch_size, recipe.seed, transforms=transforms)
    return data


def stage_mixture(run: Run, data: dict[str, TaskData]) -> Mixture:
    """The order of the tasks."""
    mixing = run.recipe.mixing
    weights = {key: run.recipe.tasks[key].weight for key in data}
    sizes = {key: 1 if d.streams else len(d) for key, d in data.items()}
    batches = {key: d.batch_size for key, d in data.items()}
    return Mixture(mixture_weights(weights, sizes, batches, mixing.by, mixing.temperature))


def prepare_stage(run: Run, data: dict[str, TaskData]) -> None:
    """Compute what the stage needs before its first step."""
    if run.stage == "codes" or run.model.tokenizer is None:
        return
    if run.stage == "prior" and run.settings.warm_start and run.step == 0:
        warm_start(run)
    run.model.set_stage(None)
    if not (views := run.recipe.train.prior.views):
        return
    kept = {key: task_data for key, task_data in data.items() if not task_data.streams}
    for key, task_data in data.items():
        if key not in kept:
            run.progress.say(f"task {key} streams: the oracle writes its codes in passing, without train.prior.views.")
            continue
        task_data.views = views
        if run.stage == "refit":
            task_data.picks = _picks(run, task_data)
    batches = stage_mixture(run, data).counts(run.settings.steps * run.accumulate)
    for key, task_data in kept.items():
        places = task_data.places(batches.get(key, 0), run.accelerator.num_processes)
        with gathered(run.model):
            _add_codes(run, task_data, places)
            if run.stage == "refit":
                _add_sampled(run, task_data, places)


def warm_start(run: Run) -> None:
    """Copy into the prior's encoder every weight that the base has under the same name and shape.

    Not those with which the run began: they are already what a prior has learnt.
    """
    encoder = getattr(run.model.prior, "encoder", None)
    if encoder is None or encoder.starts_trained:
        return
    own, learnt = encoder.state_dict(), run.model.base.state_dict()
    free = [k for k in own if f"prior.encoder.{k}" not in run.taken]
    shared = {k: learnt[k] for k in free if k in learnt and learnt[k].shape == own[k].shape}
    encoder.load_state_dict({**own, **shared})
    if shared:
        run.progress.say(f"the prior's encoder starts from {len(shared)} of {len(own)} arrays of the base.")


def _picks(run: Run, data: TaskData) -> np.ndarray:
    """The few rows that stage `refit` trains on."""
    order = np.random.default_rng((run.recipe.seed, 11)).permutation(len(data.rows))
    return np.sort(order[: run.settings.examples])


def _add_codes(run: Run, data: TaskData, places: np.ndarray) -> None:
    """The oracle's codes of the rows and views that the stage will see."""
    model, name = run.model, data.task.name
    assert model.tokenizer is not None
    digest = f"{model_digest(run.recipe.model.tokenizer, model.tokenizer)}-{data_digest(data)}"
    file = f"{name}-{digest}-{len(data.rows)}x{data.views}-seed{data.seed}.npy"
    data.codes = cached_codes(
        run.directory / CACHE / file,
        data,
        places,
        model.tokenizer.spec,
        model.encode,
        run.accelerator,
        run.progress,
        f"codes of {name}",
    )


def _add_sampled(run: Run, data: TaskData, places: np.ndarray) -> None:
    """The prior's codes of the same, which the stage then trains on too: they show f the prior's habits."""
    settings, model, name = run.settings, run.model, data.task.name
    assert model.tokenizer is not None and model.prior is not None
    sampling = SampleSettings(temperature=settings.temperature)

    def write(batch: Batch) -> Codes:
        codes = model.codes(batch, "prior", sampling, batch.keys)
        assert codes is not None
        return codes

    options = (run.recipe.model.tokenizer, run.recipe.model.prior)
    digest = f"{model_digest(options, model.tokenizer, model.prior)}-{data_digest(data)}"
    of = f"{len(data)}of{len(data.rows)}x{data.views}"
    file = f"{name}-sampled-{digest}-{of}-t{settings.temperature}-seed{data.seed}.npy"
    data.sampled = cached_codes(
        run.directory / CACHE / file,
        data,
        places,
        model.tokenizer.spec,
        write,
        run.accelerator,
        run.progress,
        f"sampling {name}",
    )
    data.sampled_share = settings.sampled
