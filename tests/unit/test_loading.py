"""From rows to batches: what a batch holds is a function of its number, the seed and the rank alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from cynosure.core.records import Batch, Example
from cynosure.data.loading import TaskData, collate, cycle, evaluation_batches, micro_batches
from cynosure.data.mixing import Mixture
from cynosure.errors import DataError


class Numbers:
    """A task whose example is the row's number and one draw of its augmentation."""

    name = "numbers"

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        values = np.array([row["number"], rng.random() if train else 0.0], np.float32)
        return Example({"values": values, "text": f"row {row['number']}"}, {"answer": values})


def rows(count: int) -> list[dict[str, Any]]:
    return [{"number": i} for i in range(count)]


def data(count: int = 10, batch_size: int = 2, seed: int = 0, **options: Any) -> TaskData:
    return TaskData(Numbers(), rows(count), batch_size, seed, **options)  # type: ignore[arg-type]


def numbers(batch: Batch) -> list[int]:
    return [int(v) for v in batch.inputs["values"][:, 0]]


def draws(batch: Batch) -> list[float]:
    return batch.inputs["values"][:, 1].tolist()


def test_a_batch_is_stacked_with_keys_and_text() -> None:
    batch = data().batch(0, 0, 1)
    assert batch.inputs["values"].shape == (2, 2) and batch.task == "numbers" and bool(batch.valid.all())
    assert batch.inputs["text"] == [f"row {n}" for n in numbers(batch)]
    assert batch.keys.tolist() == numbers(batch)


def test_padding_is_marked_not_valid() -> None:
    task = Numbers()
    examples = [task.prepare(row, np.random.default_rng(0), False) for row in rows(2)]
    batch = collate("numbers", examples, 4)
    assert numbers(batch) == [0, 1, 1, 1] and batch.valid.tolist() == [True, True, False, False]
    with pytest.raises(DataError, match="task numbers: no example"):
        collate("numbers", [])


def test_rows_of_unlike_columns_make_no_batch() -> None:
    number = np.zeros(1, np.float32)
    full, bare = Example({"x": number}, {"answer": number}), Example({"x": number}, {})
    for examples in ([full, bare], [bare, full]):
        with pytest.raises(DataError, match="task numbers: some rows of a batch have answer and others do not"):
            collate("numbers", examples)


def test_an_epoch_has_every_row_once_and_the_next_another_order() -> None:
    source = data()
    epochs = [[n for i in range(5) for n in numbers(source.batch(5 * epoch + i, 0, 1))] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_batches_do_not_depend_on_what_was_read_before() -> None:
    forwards, backwards = data(), data()
    first = [forwards.batch(i, 0, 1) for i in range(12)]
    for i in reversed(range(12)):
        again = backwards.batch(i, 0, 1)
        assert torch.equal(again.inputs["values"], first[i].inputs["values"])


def test_the_seed_changes_order_and_augmentation() -> None:
    one, other = (data(100, 50, seed=seed).batch(0, 0, 1) for seed in (0, 1))
    assert numbers(one) != numbers(other) and draws(one) != draws(other)


def test_ranks_share_the_batches_of_one_process() -> None:
    alone = [n for i in range(4) for n in numbers(data(16).batch(i, 0, 1))]
    shared = [n for i in range(2) for rank in range(2) for n in numbers(data(16).batch(i, rank, 2))]
    assert shared == alone


def test_a_batch_larger_than_the_data_repeats_rows() -> None:
    assert sorted(numbers(data(3, 6).batch(0, 0, 1))) == [0, 0, 1, 1, 2, 2]


def test_views_limit_augmentation_so_that_codes_can_be_kept() -> None:
    free, kept = data(4, 4), data(4, 4, views=2)
    assert len({d for epoch in range(6) for d in draws(free.batch(epoch, 0, 1))}) == 24
    assert len({d for epoch in range(6) for d in draws(kept.batch(epoch, 0, 1))}) == 8


def codes(count: int, views: int) -> np.ndarray:
    """A code that names its row and view."""
    return (10 * np.arange(count)[:, None] + np.arange(views)).astype(np.int32)[..., None, None]


def test_kept_codes_are_those_of_row_and_view() -> None:
    source = data(6, 3, views=2, codes=codes(6, 2))
    for number in range(8):
        batch = source.batch(number, 0, 1)
        assert batch.codes is not None and batch.codes.dtype == torch.int64 and batch.codes.shape == (3, 1, 1)
        view = (number // 2) % 2
        assert batch.codes.flatten().tolist() == [10 * n + view for n in numbers(batch)]


def test_sampled_codes_take_their_share() -> None:
    picks = np.array([1, 3, 4])
    sampled = codes(6, 1) + 1000
    source = data(6, 3, views=1, codes=codes(6, 1), sampled=sampled, sampled_share=0.7, picks=picks)
    seen = [source.batch(i, 0, 1) for i in range(300)]
    assert {n for b in seen for n in numbers(b)} == {1, 3, 4}, "only the picked rows have sampled codes"
    values = torch.stack([b.codes.flatten() for b in seen if b.codes is not None])
    assert float((values >= 1000).float().mean()) == pytest.approx(0.7, abs=0.05)
    assert torch.equal(values % 1000, torch.tensor([[10 * n for n in numbers(b)] for b in seen]))


def test_transforms_follow_prepare() -> None:
    def doubled(example: Example, rng: np.random.Generator) -> Example:
        return Example({"values": 2 * example.inputs["values"], "text": ""}, example.targets)

    plain, changed = data().batch(0, 0, 1), data(transforms=[doubled]).batch(0, 0, 1)
    assert torch.equal(changed.inputs["values"], 2 * plain.inputs["values"])
    assert changed.keys.tolist() == plain.keys.tolist()


# --- streams


class Stream:
    """Rows without numbers, so that they can only be read in passing."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in rows(self.count):
            self.read += 1
            yield row


class OwnStream(Stream):
    """One that shuffles and shares itself."""

    def stream(self, rank: int, world: int, seed: int, skip: int) -> Iterator[dict[str, Any]]:
        number = 1000 * seed + 100 * rank + skip
        while True:
            yield {"number": number}
            number += 1


def streamed(rows: Stream, batch_size: int = 2, seed: int = 0) -> TaskData:
    return TaskData(Numbers(), rows, batch_size, seed)  # type: ignore[arg-type]


def test_a_stream_goes_round_and_is_shared() -> None:
    ranks = [streamed(Stream(8)) for _ in range(2)]
    read = [[n for i in range(4) for n in numbers(ranks[r].batch(i, r, 2))] for r in range(2)]
    assert read == [[0, 2, 4, 6] * 2, [1, 3, 5, 7] * 2]


def test_a_stream_resumes_where_it_stopped() -> None:
    whole, later = streamed(Stream(7)), streamed(Stream(7))
    batches = [whole.batch(i, 0, 1) for i in range(9)]
    for i in (5, 6, 8, 2):
        again = later.batch(i, 0, 1)
        assert torch.equal(again.inputs["values"], batches[i].inputs["values"])
        assert again.keys.tolist() == batches[i].keys.tolist() == [2 * i, 2 * i + 1]


def test_a_stream_is_read_once_when_batches_follow_each_other() -> None:
    source = Stream(100)
    numbered = streamed(source)
    for i in range(10):
        numbered.batch(i, 0, 1)
    assert source.read == 20


def test_a_stream_that_shares_itself_is_asked_for_its_share() -> None:
    source = streamed(OwnStream(0), seed=3)
    assert numbers(source.batch(4, 1, 2)) == [3108, 3109]
    assert numbers(source.batch(5, 1, 2)) == [3110, 3111]


def test_an_empty_stream_is_an_error() -> None:
    with pytest.raises(DataError, match="holds no row"):
        next(cycle([]))


# --- micro-batches and evaluation


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["rows", "stream"])
def test_micro_batches_start_anywhere_with_any_number_of_workers(workers: int, source: str) -> None:
    def loaded(start: int, workers: int) -> list[Batch]:
        both = {"a": data(), "b": data(seed=5) if source == "rows" else streamed(Stream(9))}
        return list(micro_batches(both, Mixture({"a": 2, "b": 1}), start, 9, 0, 1, workers))

    whole, part = loaded(0, 0), loaded(4, workers)
    assert len(whole) == 9 and len(part) == 5
    for a, b in zip(whole[4:], part, strict=True):
        assert torch.equal(a.inputs["values"], b.inputs["values"]) and torch.equal(a.keys, b.keys)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, 5, 100])
@pytest.mark.parametrize("source", [rows(7), Stream(7)])
def test_evaluation_sees_every_row_once(world: int, limit: int | None, source: Any) -> None:
    task: Any = Numbers()
    seen = []
    for rank in range(world):
        for batch in evaluation_batches(task, source, 2, limit, rank, world):
            assert len(batch) == 2 and batch.keys.tolist() == numbers(batch) and draws(batch) == [0.0, 0.0]
            seen += batch.keys[batch.valid].tolist()
    assert sorted(seen) == list(range(min(7, limit or 7)))
