"""Depth maps and segmentations: read from rows and files, cut with their pictures, learnt as pictures of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cynosure.core.contracts import DatasetInfo
from cynosure.data.loading import collate
from cynosure.data.pictures import load_map
from cynosure.errors import CynosureError, DataError
from cynosure.run.predictor import read_row
from cynosure_tasks.generation import Generation
from cynosure_tasks.maps import Maps

RNG = np.random.default_rng(0)


def generation(condition: str, size: tuple[int, int] = (4, 4), **options: Any) -> Generation:
    return Generation(Generation.Config.model_validate({"condition": condition, **options}), size)


def seen(task: Generation, **row: Any) -> Any:
    (values,) = task.prepare(row, RNG, False).inputs.values()
    return values


def test_the_nearest_is_one_and_the_farthest_minus_one() -> None:
    """Whatever the unit; what is missing is infinitely far."""
    depth = np.array([[1.0, 2.0], [4.0, 0.0]], np.float32)
    task = generation("depth", (2, 2))
    np.testing.assert_allclose(seen(task, depth=depth), [[1, 0], [-0.5, -1]], atol=1e-6)
    np.testing.assert_allclose(seen(task, depth=(1000 * depth).astype(np.uint16)), seen(task, depth=depth), atol=1e-6)
    inverse = generation("depth", (2, 2), depth_maps="inverse")
    np.testing.assert_allclose(seen(inverse, depth=depth), [[-0.5, 0], [1, -1]], atol=1e-6)
    assert not seen(task, depth=np.full((2, 2), 3.0)).any()


def test_classes_are_those_of_panoptic_maps_and_of_files() -> None:
    pairs = np.stack([np.array([[0, 1], [2, -1]]), np.full((2, 2), 7)], -1)
    assert seen(generation("segmentation", (2, 2), labels=3), panoptic=pairs).tolist() == [[0, 1], [2, 0]]
    numbers = np.array([[255, 0], [1, 181]], np.uint8)
    coco = generation("segmentation", (2, 2), labels=183, shift=1)
    assert seen(coco, panoptic=numbers).tolist() == [[0, 1], [2, 182]]
    assert seen(coco, panoptic=pairs).tolist() == [[0, 1], [2, 0]]


@pytest.mark.parametrize(
    ("condition", "row", "said"),
    [
        ("depth", {"depth": np.full((4, 4), np.nan)}, "finite numbers"),
        ("depth", {"depth": np.zeros((4, 4, 3))}, r"float64 \[4, 4, 3\]"),
        ("segmentation", {"panoptic": np.full((4, 4), 3)}, "holds class 3, but classes are 0 to 2"),
        ("segmentation", {"panoptic": np.zeros((4, 4))}, "whole numbers"),
        ("depth", {"depth": np.ones((4, 4)), "image": np.zeros((8, 4, 3), np.uint8)}, "depth 4x4, image 8x4"),
    ],
)
def test_what_is_no_map_is_said(condition: str, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        generation(condition, labels=3).prepare(row, RNG, False)


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
def test_a_map_goes_where_its_picture_goes(augment: str) -> None:
    task = generation("depth", (8, 8), augment=augment, depth_maps="inverse")
    ramp = np.tile(np.linspace(0, 255, 32).round().astype(np.uint8), (24, 1))
    for seed in range(6):
        row = {"image": np.repeat(ramp[..., None], 3, 2), "depth": ramp.astype(np.float32)}
        example = task.prepare(row, np.random.default_rng(seed), True)
        np.testing.assert_allclose(example.inputs["depth"], example.targets["rgb"][0], atol=0.02)


def test_data_tell_how_many_classes_there_are() -> None:
    info = DatasetInfo(name="d", fields=("image", "panoptic"), classes=(("a", True), ("b", False)))
    assert Generation.configure({"condition": "segmentation"}, info)["labels"] == 3
    assert Maps.configure({"kind": "segmentation"}, info)["labels"] == 3
    for make in (lambda: generation("segmentation"), lambda: Maps(Maps.Config(kind="segmentation"), (4, 4))):
        with pytest.raises(DataError, match="set the task's `labels`"):
            make()
    with pytest.raises(CynosureError, match="dataset d has no depth, only image, panoptic"):
        Generation.configure({"condition": "depth"}, info)


def test_perfect_outputs_give_the_map_back() -> None:
    classes = np.arange(16).reshape(4, 4) % 3
    for kind, row in (("depth", {"depth": 1.0 + classes}), ("segmentation", {"panoptic": classes})):
        task = Maps(Maps.Config.model_validate({"kind": kind, "labels": 3}), (4, 4))
        batch = collate("maps", [task.prepare(row, RNG, False)])
        planes = task.encode_targets(batch)
        assert planes.shape == (1, task.channels, 4, 4)
        (picture,) = task.decode(planes, batch)
        assert len(np.unique(picture.values["rgb"].reshape(-1, 3), axis=0)) == 3
        perfect = planes if kind == "depth" else 50 * planes
        assert (
            sum(float(value) for value in task.loss(perfect, batch).values())
            < 1e-6
            < float(sum(task.loss(torch.zeros_like(planes), batch).values()))
        )


def test_files_hold_numbers(tmp_path: Path) -> None:
    numbers = np.array([[0, 7], [200, 255]], np.uint8)
    palette = Image.fromarray(numbers, "L").convert("P")
    palette.putpalette(list(range(256)) * 3)
    deep = Image.fromarray(numbers.astype(np.uint16) * 200)
    for name, picture, wanted in (
        ("grey.png", Image.fromarray(numbers), numbers),
        ("palette.png", palette, numbers),
        ("deep.png", deep, numbers.astype(np.uint16) * 200),
        ("float.tif", Image.fromarray(numbers / np.float32(8)), numbers / np.float32(8)),
        ("rgb.png", Image.fromarray(numbers).convert("RGB"), numbers),
        ("rgba.png", Image.fromarray(numbers).convert("RGBA"), numbers),
    ):
        picture.save(tmp_path / name)
        for source in (tmp_path / name, (tmp_path / name).read_bytes(), picture, wanted, torch.from_numpy(wanted)):
            np.testing.assert_array_equal(load_map(source), wanted)
    Image.fromarray(np.dstack([numbers, numbers, 255 - numbers])).save(tmp_path / "colour.png")
    blue = Image.fromarray(np.dstack([0 * numbers, 0 * numbers, numbers]))
    blue.save(tmp_path / "see-through.png", transparency=(0, 0, 7))
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("text")
    said_of = [("see-through.png", "in colour"), ("empty.png", "is empty")]
    for name, said in (
        *said_of,
        ("colour.png", "in colour"),
        ("text.png", "not a picture"),
        ("none.png", "does not exist"),
    ):
        with pytest.raises(DataError, match=said):
            load_map(tmp_path / name)


def test_a_row_of_files_is_read_whole_whatever_its_codes(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    Image.new("L", (4, 4), 9).save(tmp_path / "depth.png")
    row = {"image": str(tmp_path / "picture.png"), "depth": str(tmp_path / "depth.png")}
    for codes in ("prior", "oracle", "random"):
        read = read_row(generation("depth"), row, codes)
        assert read["depth"].shape == (4, 4) and read["image"].shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((4, 4), 299, np.uint16), "class 299, but classes are 0 to 2"),
        (np.full((4, 4), -1, np.int16), "class -1, but"),
        (np.ones((1, 4, 4), np.uint8), r"whole numbers \[H, W\], not uint8 \[1, 4, 4\]"),
        (np.ones((4, 4, 3), np.uint8), r"whole numbers \[H, W\], not uint8 \[4, 4, 3\]"),
    ],
)
def test_what_is_no_segmentation_is_said(values: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        seen(generation("segmentation", labels=3), panoptic=values)


def test_many_classes_and_distances_of_nothing_are_read() -> None:
    assert (seen(generation("segmentation", labels=400), panoptic=np.full((4, 4), 299, np.uint16)) == 299).all()
    depth = np.full((4, 4), 1e-40, np.float32)
    depth[0] = 2
    assert np.isfinite(seen(generation("depth"), depth=depth)).all()


def test_losses_that_maps_do_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="cross_entropy is for colours"):
        Maps.Config.model_validate({"l1": 0, "l2": 0, "cross_entropy": 1})
