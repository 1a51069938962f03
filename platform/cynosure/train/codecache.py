"""Codes of the training rows, computed once and kept: steps of stage `prior` then never run the oracle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from cynosure.core.records import Batch, Codes, CodeSpec
from cynosure.core.shards import whole
from cynosure.data.loading import TaskData, collate
from cynosure.progress import Progress
from cynosure.train.checkpoint import write_whole
from cynosure.train.interrupt import StopSignal

BATCH = 64
DIGESTED = 32
"""Examples that tell one dataset from another."""
ROWS_AT_ONCE = 65536
"""Rows that are exchanged between processes in one piece."""


def model_digest(options: object, *modules: nn.Module) -> str:
    """A hash of a model's options and of every weight and buffer, so that a cache never outlives what it came from."""
    digest = hashlib.sha256(repr(options).encode())
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(whole(tensor).detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def data_digest(data: TaskData) -> str:
    """A hash of a few examples as training sees them, spread over all rows, and of what the rows say they are made from
    (`key`, where a dataset gives its rows one): it tells other data and other options, and with a key repaired rows."""
    digest = hashlib.sha256(str(getattr(data.rows, "key", "")).encode())
    for index in np.linspace(0, len(data.rows) - 1, min(DIGESTED, len(data.rows)), dtype=int):
        example = data.example(int(index), 0)
        for values in (example.inputs, example.targets):
            for name, value in sorted(values.items()):
                digest.update(name.encode())
                digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()[:8]


def cached_codes(
    path: Path,
    data: TaskData,
    places: np.ndarray,
    spec: CodeSpec,
    write: Callable[[Batch], Codes],
    accelerator: Accelerator,
    progress: Progress,
    title: str,
) -> np.ndarray:
    """What `write` says of the (row, view) pairs `places` int [n, 2], int32 [rows, views, L, D]; -1 where nothing is
    known.

    Kept in `path`, together with what it held before. Processes share the work, and all of them get everything. A file
    that is cut short or of another shape is made anew. Interrupted, it keeps what is known so far.
    """
    shape = (len(data.rows), data.views, spec.length, spec.depth)
    kept = _read(path, shape)
    kept = np.full(shape, -1, np.int32) if kept is None else kept
    missing = np.flatnonzero(kept[places[:, 0], places[:, 1], 0, 0] < 0)
    told = torch.tensor([[len(missing), int(missing.sum())]], device=accelerator.device)
    if not bool((accelerator.gather(told) == told).all()):  # folders of several machines need not hold the same
        kept, missing = np.full(shape, -1, np.int32), np.arange(len(places))
    if not len(missing):
        return kept
    with StopSignal(notice=False) as stop:
        _compute(kept, data, places[missing], write, accelerator, progress, title, stop)
        if accelerator.is_main_process:
            write_whole(path, lambda temporary: _save(temporary, kept))
        if bool(accelerator.gather(torch.tensor([stop.requested], device=accelerator.device)).any()):
            raise KeyboardInterrupt
    return kept


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        codes = np.load(path, mmap_mode="c")  # what is added to it goes to another file
    except (OSError, ValueError, EOFError):
        return None
    return codes if codes.shape == shape and codes.dtype == np.int32 else None


def _save(path: Path, codes: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, codes)


def _compute(
    codes: np.ndarray,
    data: TaskData,
    places: np.ndarray,
    write: Callable[[Batch], Codes],
    accelerator: Accelerator,
    progress: Progress,
    title: str,
    stop: StopSignal,
) -> None:
    """Fills in the codes of `places`, until a stop is wished for."""
    places = places[accelerator.process_index :: accelerator.num_processes]
    with progress.bar(title, len(places)) as bar:
        for part, batch in _batches(data, places):
            codes[part[:, 0], part[:, 1]] = write(batch.to(accelerator.device)).ids.cpu().numpy()
            bar.advance(len(part))
            if stop.requested:
                break
    if accelerator.num_processes > 1:
        _join(codes, accelerator.device)


def _batches(data: TaskData, places: np.ndarray) -> Iterator[tuple[np.ndarray, Batch]]:
    """Batches of the (row, view) pairs in `places` int [n, 2], as training will see them."""
    for start in range(0, len(places), BATCH):
        part = places[start : start + BATCH]
        yield part, collate(data.task.name, [data.example(int(i), int(v)) for i, v in part])


def _join(codes: np.ndarray, device: torch.device) -> None:
    """Every process's part in the array of each: absent entries are -1, so the largest value is the code."""
    for start in range(0, len(codes), ROWS_AT_ONCE):
        piece = torch.from_numpy(codes[start : start + ROWS_AT_ONCE]).to(device)  # NCCL moves device memory only
        torch.distributed.all_reduce(piece, op=torch.distributed.ReduceOp.MAX)
        codes[start : start + ROWS_AT_ONCE] = piece.cpu().numpy()
