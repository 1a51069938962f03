"""What a run needs before its first step: accelerate, the trackers, the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, patch_environment

from cynosure.config.recipe import Recipe
from cynosure.errors import TrainingError, unknown
from cynosure.train.sharding import check_settings

PROJECT = "cynosure"


def make_accelerator(recipe: Recipe, directory: Path) -> Accelerator:
    """Devices, precision and trackers as the recipe wants them.

    Raises TrainingError for a tracker that is unknown or not installed, and a precision that this machine lacks.
    """
    trackers = list(recipe.train.trackers)
    check_trackers(trackers)
    check_settings()
    AcceleratorState._reset_state()  # else a second run in one process could not have another precision
    precision = recipe.train.precision
    advice = f"this machine cannot train with train.precision: {precision}; set it to bf16 or no."
    try:
        with patch_environment(ACCELERATE_USE_FSDP="false"):  # `sharding` does what it asks for
            accelerator = Accelerator(
                cpu=several_cpu_processes(),
                mixed_precision=precision,
                log_with=trackers or None,
                project_dir=str(directory),
                kwargs_handlers=[_data_parallel(len(recipe.tasks))],
            )
    except ValueError as error:
        raise TrainingError(advice) from error
    if precision != "no" and not accelerator.native_amp:  # accelerate leaves out what a device lacks without a word
        raise TrainingError(advice)
    if trackers:
        accelerator.init_trackers(PROJECT, config=dict(_settings(recipe.model_dump(mode="json", by_alias=True))))
    torch.manual_seed(recipe.seed)
    return accelerator


def _data_parallel(tasks: int) -> DistributedDataParallelKwargs:
    """A mixture leaves out parameters of other tasks; gradients that are views of what is sent need no second copy."""
    return DistributedDataParallelKwargs(find_unused_parameters=tasks > 1, gradient_as_bucket_view=True)


def several_cpu_processes() -> bool:
    """accelerate joins processes without GPUs only when it is told to use the CPU; each would train for itself."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not (torch.cuda.is_available() or torch.xpu.is_available())


def check_trackers(names: Sequence[str]) -> None:
    """Raises TrainingError for a tracker that is unknown or not installed."""
    known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise TrainingError(f"train.trackers: {unknown('tracker', name, known)}.")
        if name not in installed:
            raise TrainingError(f"train.trackers: {name} is not installed; pip install {name}, or take it out.")


def _settings(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """(dotted key, number or text) of every leaf, which is what all trackers take."""
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in _settings(v, f"{key}.{k}" if key else str(k))]
    return [(key, value if isinstance(value, (int, float, str)) else str(value))]
