"""Depth: missing values, both encodings, files in millimetres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from cynosure.core.records import Batch, Prediction
from cynosure.data.loading import collate
from cynosure.errors import DataError
from cynosure_tasks.depth import Depth

RNG = np.random.default_rng(0)
ENCODINGS = ({"encoding": "bins"}, {"encoding": "log", "min_depth": 0.5, "max_depth": 12.0})


def depth_task(**options: Any) -> Depth:
    return Depth(Depth.Config(**{"augment": "none", **options}), (8, 8))


def row(**change: Any) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    depth = rng.uniform(1, 9, (8, 8)).astype(np.float32)
    depth[0] = 0
    return {"image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), "depth": depth, **change}


def batch_of(task: Depth, *rows: dict[str, Any]) -> Batch:
    return collate("depth", [task.prepare(r, RNG, train=False) for r in rows])


@pytest.mark.parametrize("options", ENCODINGS)
def test_perfect_outputs_give_the_depth_back(options: dict[str, Any]) -> None:
    task = depth_task(**options)
    batch = batch_of(task, row(), row())
    targets = task.encode_targets(batch)
    assert targets.shape == (2, task.channels, 8, 8) and torch.isfinite(targets).all()
    outputs = targets * 50 if options["encoding"] == "bins" else targets
    assert task.loss(outputs, batch)["depth"] < 1e-4
    depth, truth = (f[0].values["depth"] for f in (task.decode(outputs, batch), task.truth(batch)))
    assert depth.dtype == truth.dtype == np.float32
    np.testing.assert_allclose(depth[1:], truth[1:], atol=0.02 if options["encoding"] == "bins" else 1e-4)


@pytest.mark.parametrize("options", ENCODINGS)
def test_missing_depth_teaches_nothing(options: dict[str, Any]) -> None:
    task = depth_task(**options)
    batch = batch_of(task, row())
    outputs = torch.randn(1, task.channels, 8, 8, requires_grad=True)
    task.loss(outputs, batch)["depth"].backward()
    assert (outputs.grad[:, :, 0] == 0).all(), "pixels without depth have a gradient"
    assert (outputs.grad[:, :, 1:] != 0).any()


@pytest.mark.parametrize("options", ENCODINGS)
def test_pictures_without_any_depth_are_harmless(options: dict[str, Any]) -> None:
    task = depth_task(**options)
    batch = batch_of(task, row(depth=np.zeros((8, 8), dtype=np.float32)))
    assert task.loss(torch.randn(1, task.channels, 8, 8), batch)["depth"] == 0
    answer = task.baseline(iter([batch]))(batch)[0].values["depth"]
    assert np.isfinite(answer).all()


@pytest.mark.parametrize("options", ENCODINGS)
def test_half_a_batch_and_the_whole_agree_however_much_depth_is_missing(options: dict[str, Any]) -> None:
    """Accumulated micro-batches and ranks average losses: a mean over all known pixels would weigh pictures anew."""
    task = depth_task(**options)
    sparse = row()
    sparse["depth"][2:] = 0
    outputs = torch.randn(2, task.channels, 8, 8)
    whole = task.loss(outputs, batch_of(task, row(), sparse))["depth"]
    halves = [task.loss(outputs[i : i + 1], batch_of(task, r))["depth"] for i, r in enumerate((row(), sparse))]
    torch.testing.assert_close(whole, sum(halves) / 2)


@pytest.mark.parametrize("options", ENCODINGS)
def test_predictions_stay_in_range(options: dict[str, Any]) -> None:
    task = depth_task(**options)
    depth = task.decode(torch.randn(1, task.channels, 8, 8) * 100, batch_of(task, row()))[0].values["depth"]
    assert depth.min() >= task.config.min_depth * 0.999 and depth.max() <= task.config.max_depth * 1.001


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_depth_that_is_no_number_names_the_row(bad: float) -> None:
    broken = row(key=17)
    broken["depth"][2, 2] = bad
    with pytest.raises(DataError, match="row 17"):
        depth_task().prepare(broken, RNG, train=False)


def test_negative_depth_is_missing() -> None:
    change = row()
    change["depth"][5] = -1
    assert (depth_task().prepare(change, RNG, train=False).targets["depth"][5] == 0).all()


def test_rows_without_depth_can_be_predicted() -> None:
    assert depth_task().prepare({"image": row()["image"]}, RNG, train=False).targets == {}


def test_limits_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_depth"):
        Depth.Config(min_depth=5, max_depth=2)


def test_baseline_is_the_mean_of_known_depths() -> None:
    task = depth_task()
    one, two = row(depth=np.full((8, 8), 2, np.float32)), row(depth=np.full((8, 8), 4, np.float32))
    two["depth"][0] = 0
    for r in (one, two):
        r["depth"][7] = 0
    batch = batch_of(task, one, two)
    depth = task.baseline(iter([batch]))(batch)[1].values["depth"]
    assert (depth[1:7] == 3).all() and (depth[0] == 2).all()
    assert 2 < depth[7, 0] < 4, "a pixel that never had depth takes the overall mean"


def test_saved_depth_is_in_millimetres(tmp_path: Path) -> None:
    task = depth_task()
    depth = np.array([[0, 1.2344], [9.5, 70]], dtype=np.float32)
    png, preview = Prediction(task, {"depth": depth}).save(tmp_path / "room.png")
    assert (png.name, preview.name) == ("room.png", "room_color.png")
    np.testing.assert_array_equal(np.asarray(Image.open(png)), [[0, 1234], [9500, 65535]])
    assert np.asarray(Image.open(preview)).shape == (2, 2, 3)


@pytest.mark.filterwarnings("error")
def test_depth_that_is_no_number_is_saved_as_missing(tmp_path: Path) -> None:
    """A model that has diverged still writes its files, without undefined pixels."""
    png, _ = Prediction(depth_task(), {"depth": np.array([[np.nan, 1.0]], dtype=np.float32)}).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(png)), [[0, 1000]])


def test_near_is_warm_far_is_blue_missing_is_dark() -> None:
    task = depth_task()
    near, far, missing = Prediction(task, {"depth": np.array([[0.8, 9.0, 0.0]])}).image()[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0] and missing.max() < 40


@pytest.mark.parametrize(("resize", "values"), [("uvim", {1.0, 3.0}), ("antialias", {1.0, 1.5, 2.5, 3.0})])
def test_restored_depth_has_the_size_of_the_photo(resize: str, values: set[float]) -> None:
    prediction = Prediction(depth_task(resize=resize), {"depth": np.array([[1.0, 3.0]], dtype=np.float32)})
    restored = prediction.task.restore(prediction, np.zeros((3, 4, 3), dtype=np.uint8)).values["depth"]
    assert restored.shape == (3, 4) and set(restored.ravel().tolist()) == values


def test_metric_judges_the_range_that_is_predicted() -> None:
    task = depth_task(min_depth=0.5, max_depth=12)
    assert task.metrics() == {"depth_error": {"min_depth": 0.5, "max_depth": 12}}


def test_beside_the_truth_only_depth_that_it_has_is_shown() -> None:
    """In the sky the model says anything; a picture of it would look like a mistake."""
    task = depth_task()
    batch = batch_of(task, row())
    truth = task.truth(batch)[0]
    shown = task.comparable(Prediction(task, {"depth": np.full((8, 8), 3, np.float32)}), truth).values["depth"]
    assert (shown[0] == 0).all() and (shown[1:] == 3).all()
    np.testing.assert_array_equal(task.draw(task.comparable(truth, truth)), task.draw(truth))
