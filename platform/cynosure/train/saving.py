"""A run's files: training checkpoints to resume from, the final model, the resolved recipe.

All processes of a run must see its folder; the first one writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list

from cynosure.config.recipe import differences
from cynosure.core.shards import whole
from cynosure.errors import CheckpointError
from cynosure.train import checkpoint as files
from cynosure.train import logs
from cynosure.train.schedule import Average

if TYPE_CHECKING:
    from cynosure.config.recipe import Recipe
    from cynosure.train.loop import Run

RECIPE = "recipe.yaml"
FORMAT = "cynosure-1"
_REMOVE = "Remove {} to go on from the checkpoint before it, if there is one."


def has_progress(directory: Path) -> bool:
    return is_finished(directory) or bool(files.all_directories(directory))


def is_finished(directory: Path) -> bool:
    return (directory / files.MODEL).is_file()


def newest(directory: Path) -> Path | None:
    """The newest training checkpoint."""
    found = files.step_directories(directory)
    return found[-1] if found else None


def metadata(run: Run) -> dict[str, str]:
    """What a model file says about itself: the resolved recipe, the plugins, where training stood."""
    return {
        "format": FORMAT,
        "recipe": run.recipe.to_yaml(),
        "plugins": json.dumps(run.host.versions()),
        "stage": run.stage,
        "step": str(run.step),
        "prior": "trained" if _has_trained_prior(run) else "untrained",
    }


def _has_trained_prior(run: Run) -> bool:
    """Whether the prior has learnt anything yet, here or in the run that this one began with: with all that its tasks
    share of prior and tokenizer, for a part of a prior writes codes at random."""
    stages = run.recipe.train.stages
    learns = "prior" in stages and run.recipe.train.prior.steps > 0 and stages.index("prior") <= stages.index(run.stage)
    shared = [
        name
        for name in run.model.state_dict()
        if name.startswith(("prior.", "tokenizer.")) and not set(name.split(".")) & run.recipe.tasks.keys()
    ]
    taken = any(name.startswith("prior.") for name in shared) and run.taken.issuperset(shared)
    return taken or (learns and (run.stage, run.step) != ("prior", 0))


def prior_trained(told: Mapping[str, str]) -> bool:
    """What a model file says about its prior; one that says nothing is a whole model."""
    return told.get("prior") != "untrained"


def prepare_folder(run: Run) -> None:
    """Remove what a kill or an earlier attempt left that does not belong to the run as it goes on from here."""
    if run.main:
        files.remove_parts(run.directory)
        log = run.directory / logs.FILE
        if newest(run.directory):
            logs.rewind(log, run.recipe.train.stages, run.stage, run.step)
        elif log.is_file():
            log.unlink()
        files.write_text(run.directory / RECIPE, run.recipe.to_yaml())


def save_step(run: Run, optimizer: torch.optim.Optimizer, average: Average | None, told: dict[str, Any]) -> None:
    """Write a checkpoint to resume from in the middle of a stage.

    Its model file is the model to use: with averaging it has the averaged weights, and the trained ones lie beside it.
    """

    def write(folder: Path) -> None:
        with average.applied() if average else nullcontext():
            _write(run, folder / files.MODEL, run.model.state_dict(), metadata(run))
        _write(run, folder / files.OPTIMIZER, files.optimizer_tensors(optimizer))
        if average:
            _write(run, folder / files.WEIGHTS, average.parameters)

    _save(run, write, {"logs": told, "scaler": run.accelerator.scaler.state_dict() if run.accelerator.scaler else {}})


def save_stage(run: Run) -> None:
    """Write a checkpoint that marks the end of a stage."""
    _save(run, lambda folder: _write(run, folder / files.MODEL, run.model.state_dict(), metadata(run)), {})


def _save(run: Run, write: Any, more: dict[str, Any]) -> None:
    number = run.recipe.train.stages.index(run.stage)
    path = run.directory / "checkpoints" / f"{number}-{run.stage}-{run.step:08d}"
    # One that is there has the same content, since a step's outcome depends on nothing but its number.
    (there,) = broadcast_object_list([path.exists()])
    if not there and not run.main:
        write(path)
    elif not there:
        state = {"stage": run.stage, "step": run.step, "finished": sorted(run.finished), **more}
        state["taken"] = sorted(run.taken)
        state["processes"] = run.accelerator.num_processes

        def write_all(folder: Path) -> None:
            folder.mkdir()
            write(folder)
            (folder / files.STATE).write_text(json.dumps(state), encoding="utf-8")

        files.write_whole(path, write_all)
        files.prune(run.directory, run.recipe.train.keep)
        run.host.checkpoint_saved(run, path)
    run.accelerator.wait_for_everyone()


def save_final(run: Run) -> None:
    """Write the finished model, which `load` reads."""
    path = run.directory / files.MODEL

    def write(file: Path) -> None:
        _write(run, file, run.model.state_dict(), metadata(run))

    if run.main:
        files.write_whole(path, write)
        run.host.checkpoint_saved(run, path)
    else:
        write(path)
    run.accelerator.wait_for_everyone()


def _write(run: Run, path: Path, tensors: Mapping[str, torch.Tensor], told: Mapping[str, str] | None = None) -> None:
    """One file of tensors that every process has whole, or a shard of: all of them take part, the first one writes."""
    found = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor)
        if run.main:
            found[name] = tensor.detach().cpu()
    if run.main:
        files.write_tensors(path, found, told)


def check_resumable(directory: Path, recipe: Recipe) -> None:
    """Raises CheckpointError for a folder that a run of this recipe cannot go on from: a checkpoint that has lost
    something, one of another recipe, nothing but a finished model, which a beginning would overwrite."""
    for damaged in files.damaged_directories(directory):
        raise CheckpointError(f"{damaged} has lost its {files.STATE}. {_REMOVE.format(damaged)}")
    if path := newest(directory):
        with _advice(path):
            told = files.read_metadata(path / files.MODEL)
        _check_recipe(directory, recipe, told, path)
    elif is_finished(directory):
        raise CheckpointError(
            f"{directory} holds a finished model and no checkpoint to go on from: train from it in another folder, "
            f"with --set init.from={directory}"
        )


def resume(run: Run) -> None:
    """Load the newest training checkpoint of the run's folder; a folder without one starts from the beginning."""
    check_resumable(run.directory, run.recipe)
    path = newest(run.directory)
    if path is None:
        run.progress.say(f"{run.directory} holds no checkpoint yet: starting from the beginning.")
        return
    with _advice(path):
        tensors, _ = files.read_tensors(path / files.MODEL)
        state = files.read_state(path)
        run.stage, run.step, run.finished = state["stage"], state["step"], set(state["finished"])
        run.taken = frozenset(state.get("taken", ()))
    files.load_state(run.model, tensors, path / files.MODEL)
    before, now = state.get("processes", 1), run.accelerator.num_processes
    if before != now:
        run.progress.say(f"{path.name} was made by {before} processes, now there are {now}: steps see other batches.")
    run.progress.say(f"going on from {path.name}.")


def _check_recipe(directory: Path, recipe: Recipe, told: Mapping[str, str], path: Path) -> None:
    """A run goes on only with the recipe it began with: another one would silently change what is being trained."""
    changed = differences(told.get("recipe", "{}"), recipe)
    if changed:
        raise CheckpointError(
            f"{path} was made with another recipe ({files.some(changed, 6)} differ): "
            f"resume with {directory / RECIPE}, or give another --output."
        )


def restore_step(run: Run, optimizer: torch.optim.Optimizer, average: Average | None) -> dict[str, Any]:
    """Bring back what `save_step` wrote beside the model, if the run resumes inside a stage; returns its `told`."""
    path = newest(run.directory)
    if run.step == 0 or path is None:
        return {}
    with _advice(path):
        state = files.read_state(path)
        tensors, _ = files.read_tensors(path / files.OPTIMIZER)
        files.load_optimizer(getattr(optimizer, "optimizer", optimizer), tensors)
        if average:  # made of the model as it was loaded, which is the averaged one
            weights, _ = files.read_tensors(path / files.WEIGHTS)
            files.copy_parameters(average.parameters, weights, path / files.WEIGHTS)
        if run.accelerator.scaler:
            run.accelerator.scaler.load_state_dict(state["scaler"])
        return dict(state["logs"])


@contextmanager
def _advice(path: Path) -> Iterator[None]:
    """Errors of a damaged checkpoint, with what to do."""
    try:
        yield
    except (CheckpointError, KeyError) as error:
        what = f"{path / files.STATE} lacks {error}." if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{what} {_REMOVE.format(path)}") from error
