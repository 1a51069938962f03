"""From rows to batches. The order of the data is a pure function of (seed, micro-step, rank)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch

from cynosure.core.contracts import Task
from cynosure.core.records import Batch, Example
from cynosure.data.mixing import Mixture
from cynosure.errors import CynosureError, DataError

Transform = Callable[[Example, np.random.Generator], Example]
"""What the hook cynosure_transforms gives: applied to an example after Task.prepare."""


def collate(task: str, examples: Sequence[Example], size: int | None = None) -> Batch:
    """Examples of one task -> a batch; padded to `size` with copies of the last one, marked not valid."""
    if not examples:
        raise DataError(f"task {task}: no example to make a batch of.")
    count = len(examples)
    examples = [*examples, *[examples[-1]] * ((size or count) - count)]
    return Batch(
        task=task,
        inputs=_stack(task, [e.inputs for e in examples]),
        targets=_stack(task, [e.targets for e in examples]),
        keys=torch.tensor([e.key for e in examples], dtype=torch.long),
        valid=torch.arange(len(examples)) < count,
    )


def _stack(task: str, values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if any(v.keys() != values[0].keys() for v in values):
        partly = set().union(*values) - set(values[0]).intersection(*values)
        text = f"task {task}: some rows of a batch have {', '.join(sorted(partly))} and others do not"
        raise DataError(f"{text}: give all the same columns")
    stacked: dict[str, Any] = {}
    for name, first in values[0].items():
        column = [v[name] for v in values]
        stacked[name] = column if isinstance(first, str) else torch.from_numpy(np.stack(column))
    return stacked


@lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


@dataclass
class TaskData:
    """Training rows of one task. `views` > 0 limits augmentation to that many versions of a row, so that the codes of
    every version can be kept in `codes` int [rows, views, L, D]; `picks` chooses among the rows (None: all).

    Of each example a share of `sampled_share` takes its codes from `sampled`, which has the shape of `codes`.
    """

    task: Task
    rows: Any
    batch_size: int
    seed: int
    views: int = 0
    codes: np.ndarray | None = None
    sampled: np.ndarray | None = None
    sampled_share: float = 0.0
    picks: np.ndarray | None = None
    transforms: Sequence[Transform] = ()

    def __post_init__(self) -> None:
        self.streams = not hasattr(self.rows, "__getitem__")
        self._stream: Iterator[Mapping[str, Any]] | None = None
        self._position = 0

    def __len__(self) -> int:
        return len(self.rows) if self.picks is None else len(self.picks)

    def example(self, index: int, view: int) -> Example:
        """Row `index` in its augmented version `view`."""
        rng = np.random.default_rng((self.seed, index, view))
        return replace(prepared(self.task, self.rows[index], rng, True, self.transforms), key=index)

    def batch(self, number: int, rank: int, world: int) -> Batch:
        """The `number`-th batch of this task on a rank: shuffled epochs, one after another, shared among the ranks."""
        if self.streams:
            return self._streamed(number, rank, world)
        slots = (number * world + rank) * self.batch_size + np.arange(self.batch_size)
        places = [self._place(int(slot)) for slot in slots]
        batch = collate(self.task.name, [self.example(i, v) for i, v in places])
        return replace(batch, codes=self._codes_of(places, slots))

    def _place(self, slot: int) -> tuple[int, int]:
        epoch, position = divmod(slot, len(self))
        index = int(_permutation(self.seed, epoch, len(self))[position])
        view = epoch % self.views if self.views else epoch
        return (index if self.picks is None else int(self.picks[index])), view

    def places(self, batches: int, world: int) -> np.ndarray:
        """The (row, view) pairs that the first `batches` of `world` ranks each are made of, int [n, 2], each once."""
        slots, found = batches * world * self.batch_size, [np.empty((0, 2), int)]
        for view in range(min(self.views, -(-slots // len(self)))):
            order = _permutation(self.seed, view, len(self))[: slots - view * len(self)]
            rows = order if self.picks is None else self.picks[order]
            found.append(np.stack([rows, np.full(len(rows), view)], 1))
        return np.concatenate(found)

    def _codes_of(self, places: Sequence[tuple[int, int]], slots: np.ndarray) -> torch.Tensor | None:
        if self.codes is None:
            return None
        ids = np.stack([self.codes[place] for place in places]).astype(np.int64)
        if ids.min() < 0:
            raise DataError(f"the kept codes of task {self.task.name} lack a row: remove the folder cache of the run")
        if self.sampled is not None:
            chosen = np.stack([self.sampled[place] for place in places]).astype(np.int64)
            draws = np.array([np.random.default_rng((self.seed, 7, int(slot))).random() for slot in slots])
            ids = np.where((draws < self.sampled_share)[:, None, None], chosen, ids)
        return torch.from_numpy(ids)

    def _streamed(self, number: int, rank: int, world: int) -> Batch:
        """The next rows of this rank's share of the stream; any other than the next batch opens the stream anew."""
        start = number * self.batch_size
        if self._stream is None or start != self._position:
            self._stream = open_stream(self.rows, rank, world, self.seed, skip=start)
        self._position = start + self.batch_size
        examples = []
        for place, row in zip(range(start, self._position), self._stream, strict=False):
            slot = place * world + rank
            rng = np.random.default_rng((self.seed, slot))
            examples.append(replace(prepared(self.task, row, rng, True, self.transforms), key=slot))
        return collate(self.task.name, examples)


def prepared(
    task: Task, row: Mapping[str, Any], rng: np.random.Generator, train: bool, transforms: Sequence[Transform]
) -> Example:
    """A row as an example of the task, after the transforms of plugins."""
    example = task.prepare(row, rng, train)
    for transform in transforms:
        example = transform(example, rng)
    return example


def open_stream(rows: Any, rank: int, world: int, seed: int, skip: int) -> Iterator[Mapping[str, Any]]:
    """One rank's rows of a streaming dataset, for ever, without the first `skip`: a pure function of the arguments.

    Rows that have a method `stream(rank, world, seed, skip)` shuffle and share themselves; of others a rank takes every
    world-th, in their own order.
    """
    if hasattr(rows, "stream"):
        return iter(rows.stream(rank, world, seed, skip))
    return islice(cycle(rows), rank + skip * world, None, world)


def cycle(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Rows again and again; an empty source is an error instead of an endless loop."""
    while True:
        seen = False
        for row in rows:
            seen = True
            yield row
        if not seen:
            raise DataError("the data stream holds no row: check its source and split.")


class MicroBatches(torch.utils.data.Dataset[Batch | CynosureError]):
    """Micro-batch number -> Batch, for a DataLoader without batching of its own.

    What the user can put right is returned instead of raised: a worker would make a traceback of it.
    """

    def __init__(self, data: Mapping[str, TaskData], mixture: Mixture, start: int, stop: int, rank: int, world: int):
        self.data, self.mixture = dict(data), mixture
        self.start, self.stop, self.rank, self.world = start, stop, rank, world

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __getitem__(self, offset: int) -> Batch | CynosureError:
        if offset >= len(self):
            raise IndexError(offset)
        task, number = self.mixture[self.start + offset]
        try:
            return self.data[task].batch(number, self.rank, self.world)
        except CynosureError as error:
            return error


def micro_batches(
    data: Mapping[str, TaskData], mixture: Mixture, start: int, stop: int, rank: int, world: int, workers: int
) -> Iterator[Batch]:
    """Micro-batches [start, stop) of this rank, prepared by `workers` processes (0: in this one).

    A stream is read by one process: two would each have to read past the rows of the other.
    """
    if any(d.streams for d in data.values()):
        workers = min(workers, 1)
    batches = MicroBatches(data, mixture, start, stop, rank, world)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers, worker_init_fn=_begin_worker)
    for found in loader:
        if isinstance(found, CynosureError):
            raise found
        yield found


def _begin_worker(worker: int) -> None:
    """Schedulers signal all processes of a job; one whose worker died could not finish its step and save. And a stream
    of `datasets` that knew of the worker would mix its rows in another order than without one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.utils.data._utils.worker._worker_info = None


def evaluation_batches(
    task: Task,
    rows: Any,
    batch_size: int,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
    transforms: Sequence[Transform] = (),
) -> Iterator[Batch]:
    """Every row once, in order, unaugmented; the last batch is padded and says so in `valid`."""
    for batch, _ in batches_with_rows(task, rows, batch_size, limit, rank, world, transforms):
        yield batch


def batches_with_rows(
    task: Task,
    rows: Any,
    batch_size: int,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
    transforms: Sequence[Transform] = (),
    shown: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda row: row,
) -> Iterator[tuple[Batch, list[Mapping[str, Any]]]]:
    """The batches of `evaluation_batches`, each with its rows as the dataset has them, padding left out; what the task
    prepares is `shown(row)`."""
    examples: list[Example] = []
    seen: list[Mapping[str, Any]] = []
    for index, row in _share(rows, limit, rank, world):
        rng = np.random.default_rng((0, index))
        examples.append(replace(prepared(task, shown(row), rng, False, transforms), key=index))
        seen.append(row)
        if len(examples) == batch_size:
            yield collate(task.name, examples), seen
            examples, seen = [], []
    if examples:
        yield collate(task.name, examples, batch_size), seen


def _share(rows: Any, limit: int | None, rank: int, world: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(index, row) of the rows of one rank, none of the others' decoded where rows can be asked for by number."""
    if hasattr(rows, "__getitem__") and hasattr(rows, "__len__"):
        count = len(rows) if limit is None else min(limit, len(rows))
        return ((index, rows[index]) for index in range(rank, count, world))
    return islice(enumerate(rows), rank, limit, world)
