"""Scenes: canonical rows, splits that never share a scene, drawn once."""

import contextlib

import numpy as np
import pytest

from cynosure.errors import DataError
from cynosure.progress import ConsoleProgress
from cynosure_plugins.datasets.scenes import Scenes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "cache"))


def scenes(**options) -> Scenes:
    return Scenes(Scenes.Config(**{"size": 32, "train": 40, "validation": 6, "test": 6} | options))


def test_rows_have_every_field_in_canonical_form():
    data = scenes(size=(24, 32))
    row = data.rows("test")[0]
    assert set(row) == set(data.info.fields)
    assert row["image"].shape == row["degraded"].shape == (24, 32, 3)
    assert row["image"].dtype == row["degraded"].dtype == np.uint8
    assert row["panoptic"].shape == (24, 32, 2) and row["panoptic"].dtype.kind == "i"
    assert row["depth"].shape == (24, 32) and row["depth"].dtype == np.float32 and row["depth"].max() > 0
    assert row["degraded"].mean() < row["image"].mean()
    assert isinstance(row["caption"], str) and " " in row["caption"]
    labels = np.unique(row["panoptic"][..., 0])
    assert labels.min() >= 1 and labels.max() <= len(data.info.classes)


def test_splits_and_seeds_never_share_a_scene():
    pictures = [row["image"].tobytes() for seed in (0, 1) for s in ("train", "validation", "test")
                for row in scenes(seed=seed).rows(s)]  # fmt: skip
    assert len(pictures) == 2 * 52 == len(set(pictures))


def test_more_rows_keep_the_first_ones():
    few, many = scenes(test=3).rows("test"), scenes(test=9).rows("test")
    assert [len(few), len(many)] == [3, 9]
    assert all(
        (few[i]["image"] == many[i]["image"]).all() and few[i]["caption"] == many[i]["caption"] for i in range(3)
    )


def test_kept_scenes_are_not_drawn_again(capsys, monkeypatch):
    monkeypatch.setattr("cynosure.progress._current", ConsoleProgress())
    first = scenes().rows("train")
    assert "drawing scenes: train: 40/40" in capsys.readouterr().err
    again = scenes().rows("train")
    assert not capsys.readouterr().err, "the second time they come from the disk"
    assert all((first[i]["image"] == again[i]["image"]).all() for i in range(40))


def test_a_library_draws_in_silence(capsys):
    scenes().rows("test")
    assert capsys.readouterr() == ("", "")


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set CYNOSURE_CACHE to a folder with room"):
        scenes().rows("test")


def test_what_a_task_does_to_a_row_does_not_reach_the_kept_one():
    rows = scenes().rows("test")
    with contextlib.suppress(ValueError):
        rows[0]["image"][:] = 0
    assert rows[0]["image"].any()


def test_unknown_split():
    with pytest.raises(DataError, match="did you mean 'train'"):
        scenes().rows("trian")
