"""From pictures and label maps to examples, against arrays computed by the published UViM code."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from uvim_models import Arrays, classes

from cynosure.core.records import Example
from cynosure.data import augment
from cynosure.data.augment import grey, resize_image, resize_nearest, to_model
from cynosure.data.files import write_png
from cynosure.data.labels import order_segments
from cynosure_plugins.datasets.coco_panoptic import Entry
from cynosure_tasks.colorization import Colorization
from cynosure_tasks.depth import Depth
from cynosure_tasks.panoptic import Panoptic


@pytest.fixture(scope="module")
def preprocess(golden: Path) -> Arrays:
    with np.load(golden / "uvim" / "preprocess.npz") as arrays:
        return dict(arrays)


class Draws:
    """Stands for random numbers: a flip or none."""

    def __init__(self, flip: bool) -> None:
        self.flip = flip

    def random(self) -> float:
        return 0.0 if self.flip else 0.9


def panoptic(labels: np.ndarray, size: tuple[int, ...]) -> Panoptic:
    named = classes(int(labels[..., 0].max()))
    return Panoptic(Panoptic.Config(classes=named, resize="uvim"), (size[0], size[1]))


def prepared(task: Panoptic, image: np.ndarray, labels: np.ndarray, draws: Draws, train: bool) -> Example:
    return task.prepare({"image": image, "panoptic": labels}, cast(np.random.Generator, draws), train)


def assert_same_picture(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """[3, H, W] and [H, W, 3], equal but for truncation next to an integer: one grey level, in few pixels."""
    difference = np.abs(np.moveaxis(found, 0, -1) - expected)
    assert difference.max() <= 2 / 255 + 1e-6, what
    assert np.mean(difference > 1e-6) < 0.01, what


def assert_same_labels(example: Example, expected: np.ndarray, what: str) -> None:
    np.testing.assert_array_equal(np.moveaxis(example.targets["panoptic"], 0, -1), expected, what)


def test_coco_pictures_of_segment_ids(preprocess: Arrays, tmp_path: Path) -> None:
    image = write_png(tmp_path / "image.png", preprocess["panoptic/image_u8"])
    ids = write_png(tmp_path / "ids.png", preprocess["panoptic/png"])
    listed = zip(preprocess["panoptic/ids"], preprocess["panoptic/labels0based"], strict=True)
    segments = {int(id_): (int(label) + 1, number, 0) for number, (id_, label) in enumerate(listed, start=1)}
    row = Entry(image, ids, 0, segments).read()
    np.testing.assert_array_equal(row["panoptic"], preprocess["panoptic/labels_raw"])


def test_segments_are_numbered_in_uvims_order(preprocess: Arrays) -> None:
    given, expected = preprocess["canonical/in"], preprocess["canonical/out"]
    np.testing.assert_array_equal(order_segments(given[..., 1]), expected[..., 1])
    raw = preprocess["panoptic/labels_raw"]
    numbered = panoptic(raw, raw.shape).number(raw)
    np.testing.assert_array_equal(np.moveaxis(numbered, 0, -1), preprocess["panoptic/labels_canonical"])


def test_resizing_of_images_and_labels(preprocess: Arrays) -> None:
    cases = [key.removesuffix("/in") for key in preprocess if key.startswith("resize/") and key.endswith("/in")]
    assert cases
    for case in cases:
        out, labels = preprocess[f"{case}/out"], preprocess[f"{case}/lab_out"]
        resized = resize_image(preprocess[f"{case}/in"], out.shape[:2], "uvim")
        assert_same_picture(to_model(resized), out, case)
        np.testing.assert_array_equal(resize_nearest(preprocess[f"{case}/lab_in"], labels.shape[:2]), labels, case)


def test_resizing_through_the_depth_task(preprocess: Arrays) -> None:
    """Labels here stand for depth: nothing between two of them may appear."""
    for case in [key.removesuffix("/in") for key in preprocess if key.startswith("resize/") and key.endswith("/in")]:
        out, labels = preprocess[f"{case}/out"], preprocess[f"{case}/lab_out"]
        task = Depth(Depth.Config(resize="uvim"), out.shape[:2])
        row = {"image": preprocess[f"{case}/in"], "depth": preprocess[f"{case}/lab_in"][..., 0]}
        example = task.prepare(row, np.random.default_rng(0), train=False)
        assert_same_picture(example.inputs["image"], out, case)
        np.testing.assert_array_equal(example.targets["depth"], np.maximum(labels[..., 0], 0), case)


def test_nearest_indices(ops: Arrays) -> None:
    for key in (k for k in ops if k.startswith("nearest_index/")):
        old, new = (int(n) for n in key.rsplit("/", 1)[1].split("to"))
        found = resize_nearest(np.arange(old)[:, None], (new, 1))[:, 0]
        at = (np.arange(new) + 0.5) * old / new
        np.testing.assert_array_equal((found - ops[key])[at % 1 != 0], 0, err_msg=key)
        assert np.abs(found - ops[key]).max() <= 1, key


def test_panoptic_examples(preprocess: Arrays) -> None:
    image, labels, expected = (preprocess[f"panoptic/{name}"] for name in ("image_u8", "labels_raw", "labels_32"))
    task = panoptic(labels, expected.shape)
    example = prepared(task, image, labels, Draws(flip=False), train=False)
    assert_same_picture(example.inputs["image"], preprocess["panoptic/image_32"], "image")
    renumbered = np.stack([expected[..., 0], order_segments(expected[..., 1])], axis=-1)
    assert_same_labels(example, renumbered, "labels")


def test_flip_crop_resize_and_renumber(preprocess: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = preprocess["panoptic/image_u8"], preprocess["panoptic/labels_raw"]
    # The box is given in shares of the picture; UViM cuts it to whole pixels.
    (top, left), (rows, columns) = (preprocess["crop/box_begin_size"] * image.shape[:2]).astype(int)
    box = slice(top, top + rows), slice(left, left + columns)
    monkeypatch.setattr(augment, "uvim_box", lambda size, rng: box)
    for name, flip in (("noflip", False), ("flip", True)):
        expected_image, expected = preprocess[f"crop/{name}/image_32"], preprocess[f"crop/{name}/labels_32"]
        example = prepared(panoptic(labels, expected.shape), image, labels, Draws(flip), train=True)
        assert_same_picture(example.inputs["image"], expected_image, name)
        assert_same_labels(example, expected, name)


def test_colorization_examples(preprocess: Arrays) -> None:
    image, x, y = (preprocess[f"color/{name}"] for name in ("image_u8", "image", "labels"))
    resized = resize_image(image, y.shape[:2], "uvim")
    assert_same_picture(to_model(resized), y, "target")
    assert_same_picture(to_model(np.repeat(grey(resized)[..., None], 3, axis=-1)), x, "grey input")
    task = Colorization(Colorization.Config(resize="uvim"), y.shape[:2])
    example = task.prepare({"image": image}, np.random.default_rng(0), train=False)
    assert_same_picture(example.inputs["image"], x, "input of the example")
    assert_same_picture(example.targets["rgb"], y, "target of the example")
