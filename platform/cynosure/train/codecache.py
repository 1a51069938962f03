"""Codes of the training rows, computed once: stage `prior` then never runs the oracle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cynosure.core.guided import GuidedModel
from cynosure.core.records import Batch, Codes, CodeSpec
from cynosure.data.loading import TaskData, collate
from cynosure.progress import Progress
from cynosure.train.checkpoint import write_whole

BATCH = 64


def weights_digest(module: nn.Module) -> str:
    """A hash of every weight and buffer, so that a cache never outlives the tokenizer it came from."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def view_batches(data: TaskData, places: np.ndarray, device: torch.device) -> Iterator[tuple[np.ndarray, Batch]]:
    """Batches of the (row, view) pairs in `places` int [n, 2], as training will see them."""
    for start in range(0, len(places), BATCH):
        part = places[start : start + BATCH]
        batch = collate(data.task.name, [data.example(int(i), int(v)) for i, v in part])
        yield part, batch.to(device)


def all_places(data: TaskData) -> np.ndarray:
    """Every (row, view) pair, int [rows * views, 2]."""
    rows = np.arange(len(data.rows)) if data.picks is None else data.picks
    return np.stack(np.meshgrid(rows, np.arange(data.views), indexing="ij"), -1).reshape(-1, 2)


def compute_codes(
    data: TaskData,
    spec: CodeSpec,
    write: Callable[[Batch], Codes],
    device: torch.device,
    progress: Progress,
    title: str,
    rank: int = 0,
    world: int = 1,
) -> np.ndarray:
    """Codes of every place, int32 [rows, views, L, D]; -1 where a row is not among the picks."""
    codes = np.full((len(data.rows), data.views, spec.length, spec.depth), -1, np.int32)
    places = all_places(data)[rank::world]
    with progress.bar(title, len(places)) as bar:
        for part, batch in view_batches(data, places, device):
            codes[part[:, 0], part[:, 1]] = write(batch).ids.cpu().numpy()
            bar.advance(len(part))
    return codes if world == 1 else _joined(codes)


def _joined(codes: np.ndarray) -> np.ndarray:
    """Every rank's rows in one array: absent entries are -1, so the largest value is the code."""
    tensor = torch.from_numpy(codes)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return tensor.numpy()


def oracle_codes(
    model: GuidedModel, data: TaskData, directory: Path, device: torch.device, progress: Progress, rank: int, world: int
) -> np.ndarray:
    """The oracle's codes of all views of the rows, from `directory` when they are there already."""
    assert model.tokenizer is not None
    name = f"{data.task.name}-{weights_digest(model.tokenizer)}-{len(data.rows)}x{data.views}-seed{data.seed}.npy"
    path = directory / name
    if path.is_file():
        return np.load(path, mmap_mode="r")
    title = f"codes of {data.task.name}"
    codes = compute_codes(data, model.tokenizer.spec, model.encode, device, progress, title, rank, world)
    if rank == 0:
        write_whole(path, lambda temporary: _save(temporary, codes))
    return codes


def _save(path: Path, codes: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, codes)
