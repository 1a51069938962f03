"""Checkpoints: safetensors only, written whole or not at all, checked by name and shape when read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from cynosure.core.shards import sharded_like
from cynosure.errors import CheckpointError

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
WEIGHTS = "weights.safetensors"
STATE = "state.json"
PART = ".part"


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file, or a folder that is not there yet, beside `path`, then rename it into place; a failure
    leaves `path` as it was.

    Raises CheckpointError when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"could not write {path} ({error}); what was there before is untouched: "
            "free some space, then go on (a training with --resume)."
        ) from error
    finally:
        with suppress(OSError):
            _remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_whole(path, lambda temporary: _write_utf8(temporary, text))


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def remove_parts(directory: Path) -> None:
    """Remove what writes that were killed have left in a run's folder."""
    for part in [*directory.glob(f".*{PART}"), *directory.glob(f"*/.*{PART}")]:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    for file in path.iterdir() if path.is_dir() else [path]:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Tensors by name -> one safetensors file; tensors that share memory, as tied weights do, are written each."""
    written: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        written[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    # A file without tensors and metadata, as of an optimizer without state, could not be read back.
    save_file(written, path, dict(metadata or {"format": "pt"}))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; a missing or damaged file is a CheckpointError."""
    with opened(path) as file:
        return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Only the metadata, without reading the tensors."""
    with opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}.")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): it was cut short or is no safetensors file; use another checkpoint."
        ) from error


def load_state(module: nn.Module, tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copy tensors into a module; missing, left-over and misshapen names are one error and change nothing."""
    _require_fit(module.state_dict(), tensors, source)
    module.load_state_dict(dict(tensors))


@torch.no_grad()
def copy_parameters(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copy tensors into parameters by name; the same errors as `load_state`."""
    _require_fit(parameters, tensors, source)
    for name, parameter in parameters.items():
        parameter.copy_(sharded_like(parameter, tensors[name]))


def _require_fit(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], source: Path) -> None:
    problems = differences(shapes_of(own), shapes_of(given))
    if problems:
        raise CheckpointError(
            f"{source} does not fit this model: {'; '.join(problems)}. Was it made by another recipe?"
        )


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differences(wanted: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]]) -> list[str]:
    """What keeps tensors of some shapes from being those that are wanted: up to three phrases; -1 fits any size."""
    groups = (
        ("missing", [k for k in wanted if k not in given]),
        ("left over", [k for k in given if k not in wanted]),
        (
            "wrong shape",
            [
                f"{k} is {list(given[k])}, wanted {list(shape)}"
                for k, shape in wanted.items()
                if k in given and not _fits(shape, given[k])
            ],
        ),
    )
    return [f"{len(names)} {what} ({some(names)})" for what, names in groups if names]


def _fits(wanted: Sequence[int], given: Sequence[int]) -> bool:
    return len(wanted) == len(given) and all(w in (-1, g) for w, g in zip(wanted, given, strict=True))


def some(names: list[str], most: int = 4) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state as flat tensors `<parameter>.<key>`; where groups have no `names`, a parameter is a number."""
    state, names = optimizer.state_dict()["state"], _names(optimizer)
    return {
        f"{names[i]}.{key}": torch.as_tensor(value)
        for i, values in state.items()
        for key, value in values.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `optimizer_tensors`, into an optimizer over the same parameters, in whatever groups.

    Raises CheckpointError for the state of other parameters, or of numbers where this optimizer has names, as earlier
    versions wrote it: groups may have changed since, and with them what the numbers stand for.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = {name: number for number, name in enumerate(_names(optimizer))}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for tensor_name, tensor in tensors.items():
        name, _, key = tensor_name.rpartition(".")
        if name not in numbers:
            raise CheckpointError(
                f"the optimizer's state has '{name}', which is none of these {len(parameters)} parameters: it is of "
                "another model or an earlier version; begin a new run from this one with `init.from`."
            )
        state.setdefault(numbers[name], {})[key] = _laid_out_as(parameters[numbers[name]], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _names(optimizer: torch.optim.Optimizer) -> list[str]:
    """Of all parameters, in the order of their numbers."""
    groups = optimizer.param_groups
    if all("names" in group for group in groups):
        return [name for group in groups for name in group["names"]]
    return [str(number) for number in range(sum(len(group["params"]) for group in groups))]


def _laid_out_as(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` with the strides of the parameter it belongs to: fused optimizers walk both memories side by side."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(sharded_like(parameter, tensor))


def step_directories(directory: Path) -> list[Path]:
    """Complete training checkpoints of a run, oldest first (their names sort by stage, then step)."""
    return [folder for folder in all_directories(directory) if (folder / STATE).is_file()]


def damaged_directories(directory: Path) -> list[Path]:
    """Training checkpoints that have lost what they were written with last."""
    return [folder for folder in all_directories(directory) if not (folder / STATE).is_file()]


def all_directories(directory: Path) -> list[Path]:
    """Training checkpoints of a run, complete or damaged."""
    return sorted(path for path in (directory / "checkpoints").glob("[!.]*") if path.is_dir())


def prune(directory: Path, keep: int) -> None:
    """Remove all but the newest `keep` training checkpoints."""
    for old in step_directories(directory)[: -keep or None]:
        _remove(old)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The `state.json` of a training checkpoint."""
    try:
        return dict(json.loads((checkpoint / STATE).read_text()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / STATE} cannot be read ({error}); use another checkpoint.") from error


def model_file(path: Path) -> Path:
    """The model file that `path` means: a file, a run's final model, or else its newest training checkpoint."""
    if path.is_file():
        return path
    candidates: Iterable[Path] = [path / MODEL, *[p / MODEL for p in reversed(step_directories(path))]]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if not path.exists():
        raise CheckpointError(f"there is no {path}: train a run first (cynosure train), or give the folder of one.")
    raise CheckpointError(f"{path} holds no checkpoint: give a run folder (runs/NAME) that training has written.")
