"""Kept codes: those of the right row and view, made anew whenever they could be wrong."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from cynosure.core.records import Batch, Codes, CodeSpec, Example, Segment
from cynosure.data.loading import TaskData
from cynosure.errors import DataError
from cynosure.progress import Progress
from cynosure.train.codecache import BATCH, cached_codes, data_digest, model_digest

SPEC = CodeSpec((Segment("codes", 2, 1, 1000),))
ROWS = BATCH + 6


class Numbers:
    name = "numbers"

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        assert train, "codes are of the augmented rows that training sees"
        return Example({"draw": np.array([rng.random()], np.float32)}, {})


class Oracle:
    """Writes the row's number and a code of its augmentation; counts the batches it was shown."""

    def __init__(self) -> None:
        self.batches = 0

    def __call__(self, batch: Batch) -> Codes:
        self.batches += 1
        drawn = (batch.inputs["draw"][:, 0] * 1000).long()
        return Codes(torch.stack([batch.keys, drawn], 1)[..., None], SPEC)


def data(views: int = 2) -> TaskData:
    return TaskData(Numbers(), [{}] * ROWS, 4, 0, views=views)  # type: ignore[arg-type]


def kept(path: Path, oracle: Oracle, views: int = 2, batches: int = ROWS) -> np.ndarray:
    places = data(views).places(batches, 1)
    return cached_codes(path, data(views), places, SPEC, oracle, Accelerator(), Progress(), "codes")


def test_codes_are_those_of_the_row_and_view_in_training(tmp_path: Path) -> None:
    codes = kept(tmp_path / "codes.npy", Oracle())
    assert codes.shape == (ROWS, 2, 2, 1) and codes.dtype == np.int32
    source = data()
    for row in (0, 5, ROWS - 1):
        for view in (0, 1):
            drawn = int(source.example(row, view).inputs["draw"][0] * 1000)
            assert codes[row, view].flatten().tolist() == [row, drawn]


def test_codes_are_computed_once(tmp_path: Path) -> None:
    first, second = Oracle(), Oracle()
    codes = kept(tmp_path / "codes.npy", first)
    assert first.batches == 3
    assert np.array_equal(kept(tmp_path / "codes.npy", second), codes) and second.batches == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_known(tmp_path: Path, number: signal.Signals) -> None:
    """The codes of a large data set take hours."""

    class Stopped(Oracle):
        def __call__(self, batch: Batch) -> Codes:
            if self.batches == 1:
                signal.raise_signal(number)
            return super().__call__(batch)

    rest = Oracle()
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "codes.npy", Stopped())
    codes = kept(tmp_path / "codes.npy", rest)
    assert rest.batches == 1 and np.array_equal(codes, kept(tmp_path / "others.npy", Oracle()))


def test_only_what_training_reads_is_encoded(tmp_path: Path) -> None:
    """A short training must not wait for codes it will never see; a longer one adds to what is kept."""
    few, more = Oracle(), Oracle()
    codes = kept(tmp_path / "codes.npy", few, batches=3)
    known = codes[..., 0, 0] >= 0
    assert known.sum() == 3 * 4 and few.batches == 1
    source = replace(data(), codes=codes)
    for number in range(3):
        read = source.batch(number, 0, 1).codes
        assert read is not None and (read >= 0).all()
    longer = kept(tmp_path / "codes.npy", more, batches=5)
    assert np.array_equal(longer[known], codes[known]) and (longer[..., 0, 0] >= 0).sum() == 5 * 4
    assert more.batches == 1


class Ranks:
    """An accelerator beside another process, whose file knows other codes."""

    process_index, num_processes, is_main_process, device = 0, 1, True, torch.device("cpu")

    def gather(self, told: torch.Tensor) -> torch.Tensor:
        return told if told.dtype == torch.bool else torch.cat([told, told + 1])


def test_processes_whose_files_differ_make_them_anew(tmp_path: Path) -> None:
    """Else one would wait for another that has nothing to do."""
    codes = np.array(kept(tmp_path / "codes.npy", Oracle(), batches=3))
    oracle, places = Oracle(), data().places(3, 1)
    again = cached_codes(tmp_path / "codes.npy", data(), places, SPEC, oracle, Ranks(), Progress(), "codes")  # type: ignore[arg-type]
    assert oracle.batches == 1 and np.array_equal(again, codes)


def test_a_row_without_codes_is_an_error_and_no_code(tmp_path: Path) -> None:
    source = replace(data(), codes=kept(tmp_path / "codes.npy", Oracle(), batches=3))
    with pytest.raises(DataError, match="remove the folder cache"):
        source.batch(30, 0, 1)


@pytest.mark.parametrize("picks", [None, np.array([2, 3, 5, 7, 11])], ids=["all rows", "some rows"])
@pytest.mark.parametrize("world", [1, 2])
def test_places_are_those_that_batches_are_made_of(world: int, picks: np.ndarray | None) -> None:
    """Of all ranks, over epochs that end within a batch, and never one of them twice."""
    for batches in (0, 1, 2, 17, 18, 40, 90):
        source = replace(data(), picks=picks)
        slots = range(batches * world * source.batch_size)
        read = {source._place(slot) for slot in slots}
        places = source.places(batches, world)
        assert {(int(row), int(view)) for row, view in places} == read and len(places) == len(read)


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "not numpy", "other views", "other type"])
def test_a_file_that_cannot_be_right_is_made_anew(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "codes.npy"
    codes = np.array(kept(path, Oracle()))
    content = path.read_bytes()
    if damage == "other views":
        path.unlink()
        kept(path, Oracle(), views=1)
    elif damage == "other type":
        np.save(path, codes.astype(np.float32))
    else:
        path.write_bytes({"cut": content[:-8], "header": content[:20], "empty": b"", "not numpy": b"x" * 500}[damage])
    oracle = Oracle()
    assert np.array_equal(kept(path, oracle), codes) and oracle.batches == 3
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == ["codes.npy"]


def test_the_digest_follows_weights_buffers_and_names() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    digests = {model_digest({}, module)}
    assert model_digest({}, module) in digests
    with torch.no_grad():
        module[0].bias[1] += 1e-6
    digests.add(model_digest({}, module))
    module[1].running_mean[0] = 1e-6
    digests.add(model_digest({}, module))
    digests.add(model_digest({}, nn.ModuleDict({"a": module})))
    digests.add(model_digest({}, module, module))
    digests.add(model_digest({"code_grid": [1, 4]}, module))  # an option without weights, which changes codes
    assert len(digests) == 6


def test_the_digest_of_data_follows_its_examples() -> None:
    """As many other rows, or the same ones augmented otherwise, must not be given the codes of those before."""
    other = TaskData(Numbers(), [{}] * ROWS, 4, 1, views=2)  # type: ignore[arg-type]
    assert data_digest(data()) == data_digest(data()) != data_digest(other)


def test_the_digest_of_data_follows_what_rows_are_made_from() -> None:
    """One repaired picture among thousands is none of the few examples, but the dataset knows of it."""

    class Rows(list[dict[str, Any]]):
        key = "one"

    before, after = Rows([{}] * ROWS), Rows([{}] * ROWS)
    after.key = "another"
    first, second = (data_digest(replace(data(), rows=rows)) for rows in (before, after))
    assert first != second
