"""Colorization: grey in, colours out, and no detail lost on the way back to the photo's resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cynosure.core.records import Batch, Prediction
from cynosure.data.augment import luma, to_pixels
from cynosure.data.loading import collate
from cynosure_tasks.colorization import Colorization

RNG = np.random.default_rng(0)


def colorization(encoding: str = "rgb", size: tuple[int, int] = (8, 8)) -> Colorization:
    return Colorization(Colorization.Config(encoding=encoding, augment="none"), size)


def photo(height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def batch_of(task: Colorization, *images: np.ndarray) -> Batch:
    return collate("colorization", [task.prepare({"image": i}, RNG, train=False) for i in images])


def test_the_input_holds_no_colour() -> None:
    batch = batch_of(colorization(), photo())
    red, green, blue = batch.inputs["image"][0]
    assert torch.equal(red, green) and torch.equal(green, blue)
    np.testing.assert_allclose((red.numpy() + 1) * 127.5, luma(photo()), atol=1.01)


@pytest.mark.parametrize("encoding", ["rgb", "residual"])
def test_perfect_outputs_give_the_picture_back(encoding: str) -> None:
    task = colorization(encoding)
    batch = batch_of(task, photo())
    outputs = task.encode_targets(batch)
    assert outputs.shape == (1, task.channels, 8, 8)
    assert task.loss(outputs, batch)["color"] == 0
    for predictions in (task.decode(outputs, batch), task.truth(batch)):
        np.testing.assert_array_equal(predictions[0].values["rgb"], photo())


def test_no_residual_means_grey_and_is_the_baseline() -> None:
    task = colorization("residual")
    batch = batch_of(task, photo())
    grey = task.decode(torch.zeros(1, 3, 8, 8), batch)[0].values["rgb"]
    assert (grey == grey[..., :1]).all()
    np.testing.assert_array_equal(task.baseline(iter([]))(batch)[0].values["rgb"], grey)


def test_outputs_beyond_white_are_clipped() -> None:
    task = colorization()
    rgb = task.decode(torch.full((1, 3, 8, 8), 3.0), batch_of(task, photo()))[0].values["rgb"]
    assert (rgb == 255).all()


def test_grey_photos_can_be_colored() -> None:
    grey = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4, 3, axis=-1)
    batch = batch_of(colorization(), grey)
    np.testing.assert_allclose(batch.inputs["image"], batch.targets["rgb"], atol=1e-6)


@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_restoring_keeps_every_detail_of_the_photo(strength: float) -> None:
    """Luma of the result is that of the photo to within rounding, however strong the colours."""
    task, original = colorization(), photo(40, 30)
    colors = (128 + (photo() - 128.0) * strength).astype(np.uint8)
    restored = task.restore(Prediction(task, {"rgb": colors}), original).values["rgb"]
    assert restored.shape == original.shape and restored.dtype == np.uint8
    np.testing.assert_allclose(luma(restored), luma(original), atol=0.6)


def test_restoring_keeps_the_predicted_hue() -> None:
    task = colorization()
    red = np.full((8, 8, 3), (200, 60, 60), dtype=np.uint8)
    restored = task.restore(Prediction(task, {"rgb": red}), np.full((20, 20, 3), 120, dtype=np.uint8)).values["rgb"]
    assert (restored[..., 0] > restored[..., 1] + 80).all() and (restored[..., 1] == restored[..., 2]).all()


@pytest.mark.filterwarnings("error")
def test_outputs_that_are_no_number_are_black() -> None:
    assert not to_pixels(np.full((3, 2, 2), np.nan, dtype=np.float32)).any()


def test_saved_picture_is_the_prediction(tmp_path: Path) -> None:
    [png] = Prediction(colorization(), {"rgb": photo()}).save(tmp_path / "old photo.v2.jpeg")
    assert png.name == "old photo.v2.png"
    np.testing.assert_array_equal(np.asarray(Image.open(png)), photo())


def test_sampling_several_answers_makes_sense_here() -> None:
    assert Colorization.one_to_many, "the platform offers one answer only"
