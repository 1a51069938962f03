"""A run's files: training checkpoints to resume from, the final model, the resolved recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from cynosure.errors import CheckpointError
from cynosure.train import checkpoint as files
from cynosure.train.schedule import Average

if TYPE_CHECKING:
    from cynosure.train.loop import Run

RECIPE = "recipe.yaml"
FORMAT = "cynosure-1"


def has_progress(directory: Path) -> bool:
    return (directory / files.MODEL).is_file() or bool(files.step_directories(directory))


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
    }


def write_recipe(run: Run) -> None:
    if run.main:
        text = run.recipe.to_yaml()
        files.write_whole(run.directory / RECIPE, lambda path: _write_text(path, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)


def save_checkpoint(run: Run, optimizer: torch.optim.Optimizer | None, average: Average | None) -> None:
    """Write a checkpoint to resume from; without an optimizer it marks the end of a stage."""
    stages = run.recipe.train.stages
    path = run.directory / "checkpoints" / f"{stages.index(run.stage)}-{run.stage}-{run.step:08d}"
    if run.main:

        def write(temporary: Path) -> None:
            temporary.mkdir(parents=True)
            files.write_tensors(temporary / files.MODEL, run.model.state_dict(), metadata(run))
            if optimizer is not None:
                files.write_tensors(temporary / files.OPTIMIZER, files.optimizer_tensors(optimizer))
            if average is not None:
                files.write_tensors(temporary / files.AVERAGE, average.values)
            state = {"stage": run.stage, "step": run.step, "finished": sorted(run.finished)}
            (temporary / files.STATE).write_text(json.dumps(state))

        files.write_whole(path, write)
        files.prune(run.directory, run.recipe.train.keep)
        run.host.checkpoint_saved(run, path)
    run.accelerator.wait_for_everyone()


def save_final(run: Run) -> None:
    """Write the finished model, which `load` reads."""
    if run.main:
        path = run.directory / files.MODEL
        files.write_whole(path, lambda p: files.write_tensors(p, run.model.state_dict(), metadata(run)))
        run.host.checkpoint_saved(run, path)
    run.accelerator.wait_for_everyone()


def resume(run: Run) -> None:
    """Load the newest training checkpoint of the run's folder; a folder without one starts from the beginning."""
    path = newest(run.directory)
    if path is None:
        return
    state = files.read_state(path)
    tensors, told = files.read_tensors(path / files.MODEL)
    _check_recipe(run, told, path)
    files.load_state(run.model, tensors, path / files.MODEL)
    run.stage, run.step, run.finished = state["stage"], state["step"], set(state["finished"])
    run.progress.say(f"going on from {path.name}.")


FREE = ("eval.", "train.log_every", "train.save_every", "train.eval_every", "train.keep", "train.trackers", "train.workers")
"""Settings that may change when a run is resumed: they do not touch what is trained."""


def _check_recipe(run: Run, told: dict[str, str], path: Path) -> None:
    """A run goes on only with the recipe it began with: another one would silently change what is being trained."""
    before, now = (dict(_flat(yaml.safe_load(text))) for text in (told.get("recipe", "{}"), run.recipe.to_yaml()))
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k) and not k.startswith(FREE)]
    if changed:
        raise CheckpointError(
            f"{path} was made with another recipe ({_some(changed)} differ): resume with {run.directory / RECIPE}, "
            "or give another --output."
        )


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`(dotted key, value)` of every leaf."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def restore_optimizer(run: Run, optimizer: Any, average: Average | None) -> None:
    """Optimizer and averages of the checkpoint that the run was resumed from, at the same stage and step."""
    path = newest(run.directory)
    if run.step == 0 or path is None:
        return
    tensors, _ = files.read_tensors(path / files.OPTIMIZER)
    files.load_optimizer(getattr(optimizer, "optimizer", optimizer), tensors)
    if average is not None:
        values, _ = files.read_tensors(path / files.AVERAGE)
        average.values = {k: v.to(average.values[k].device) for k, v in values.items()}
