"""What a run of several processes makes of a stream: each row on one of them, and the same rows again on a resume."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pytest
from datasets import IterableDataset

from cynosure.core.contracts import Task
from cynosure.core.records import Example
from cynosure.data.loading import TaskData, micro_batches
from cynosure.data.mixing import Mixture
from cynosure.errors import DataError
from cynosure_plugins.datasets.streams import StreamRows

ROWS, SHARDS, BATCH = 48, 4, 3


class Numbers:
    name = "numbers"

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        return Example({"number": np.array(row["number"]), "augmented": np.array(rng.random())}, {})


def raw(shards: list[int]) -> Iterator[dict[str, int]]:
    for shard in shards:
        yield from ({"number": number} for number in range(shard, ROWS, SHARDS))


def read(
    start: int, stop: int, rank: int, world: int, buffer: int, limit: int | None = None
) -> list[tuple[int, float]]:
    """(number, augmentation) of the rows in micro-batches [start, stop) of one process."""
    source = IterableDataset.from_generator(raw, gen_kwargs={"shards": list(range(SHARDS))})
    rows = StreamRows("numbers", source, lambda row, position: dict(row), buffer=buffer, limit=limit)
    data = {"numbers": TaskData(cast(Task, Numbers()), rows, BATCH, seed=5)}
    batches = micro_batches(data, Mixture({"numbers": 1.0}), start, stop, rank, world, workers=0)
    return [
        pair for b in batches for pair in zip(*(b.inputs[k].tolist() for k in ("number", "augmented")), strict=True)
    ]


@pytest.mark.parametrize("buffer", [0, 10])
@pytest.mark.parametrize("world", [2, 4])
def test_an_epoch_is_shared_without_rest_and_a_resumed_run_sees_the_same_rows(world: int, buffer: int) -> None:
    epoch = ROWS // BATCH // world
    ranks = [read(0, 2 * epoch, rank, world, buffer) for rank in range(world)]
    for number in range(2):
        part = slice(number * epoch * BATCH, (number + 1) * epoch * BATCH)
        assert sorted(n for rank in ranks for n, _ in rank[part]) == list(range(ROWS)), "every row is on one process"
    for rank, whole in enumerate(ranks):
        for start in (1, epoch, epoch + 1):
            assert read(start, 2 * epoch, rank, world, buffer) == whole[start * BATCH :], f"resumed at {start}"


@pytest.mark.parametrize("world", [1, 2])
def test_every_epoch_is_shuffled_anew(world: int) -> None:
    epoch = ROWS // BATCH // world
    numbers = [n for n, _ in read(0, 2 * epoch, 0, world, buffer=10)]
    assert numbers[: epoch * BATCH] != numbers[epoch * BATCH :]


@pytest.mark.parametrize("world", [1, 2])
def test_a_limit_keeps_the_same_rows_in_every_epoch(world: int) -> None:
    epoch = 12 // BATCH // world
    ranks = [read(0, 2 * epoch, rank, world, buffer=10, limit=12) for rank in range(world)]
    halves = [
        {n for rank in ranks for n, _ in rank[part]} for part in (slice(epoch * BATCH), slice(epoch * BATCH, None))
    ]
    assert halves[0] == halves[1] and len(halves[0]) == 12


@pytest.mark.parametrize("buffer", [0, 10])
def test_a_process_that_no_row_is_left_for_is_told_so(buffer: int) -> None:
    with pytest.raises(DataError, match=r"numbers has no row for process 2 of 4: give it more rows \(`limit`\)"):
        read(0, 1, rank=2, world=4, buffer=buffer, limit=2)


class Impossible:
    name = "numbers"

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        raise DataError(f"row {row['number']} has no depth")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_a_row_is_said_in_one_sentence_by_workers_too(workers: int) -> None:
    data = {"numbers": TaskData(cast(Task, Impossible()), [{"number": 3}], 1, seed=5)}
    with pytest.raises(DataError) as found:
        next(micro_batches(data, Mixture({"numbers": 1.0}), 0, 2, 0, 1, workers))
    assert str(found.value) == "row 3 has no depth"


class Signals:
    name = "numbers"

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        left = [signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM)]
        return Example({"left": np.array(left)}, {})


def test_workers_leave_signals_to_the_main_process() -> None:
    """Schedulers and Ctrl-C reach all processes; without its worker a run cannot finish the step and save."""
    data = {"numbers": TaskData(cast(Task, Signals()), [{}], 1, seed=5)}
    batch = next(micro_batches(data, Mixture({"numbers": 1.0}), 0, 1, 0, 1, workers=1))
    assert batch.inputs["left"].all()
