"""Panoptic segmentation: numbering of segments, both ways to treat stuff, what is drawn and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cynosure.core.contracts import DatasetInfo
from cynosure.core.records import Batch, Prediction
from cynosure.data.loading import collate
from cynosure.errors import DataError
from cynosure_tasks.panoptic import Panoptic

CLASSES = (("sky", False), ("ground", False), ("ball", True), ("box", True))
SKY, GROUND, BALL, BOX = 1, 2, 3, 4
RNG = np.random.default_rng(0)


def panoptic(**options: Any) -> Panoptic:
    config = {"classes": CLASSES, "max_instances": 6, "augment": "none", **options}
    return Panoptic(Panoptic.Config(**config), (16, 16))


def scene() -> dict[str, np.ndarray]:
    """Sky over ground; a ball at the lower left and two boxes at the right, one above the other."""
    labels = np.zeros((16, 16, 2), dtype=np.int32)
    labels[:6], labels[6:] = (SKY, 0), (GROUND, 0)
    labels[9:14, 1:5] = (BALL, 7)
    labels[1:5, 10:14] = (BOX, 3)
    labels[8:12, 11:15] = (BOX, 9)
    return {"image": RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8), "panoptic": labels}


def batch_of(task: Panoptic, *rows: dict[str, np.ndarray], train: bool = False) -> Batch:
    return collate("panoptic", [task.prepare(row, np.random.default_rng(i), train) for i, row in enumerate(rows)])


def values(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    return prediction.values["class"], prediction.values["instance"]


@pytest.mark.parametrize(("order", "numbers"), [("x", {"ball": 1, "high": 2, "low": 3}), ("y", {"high": 1})])
def test_things_are_numbered_by_place(order: str, numbers: dict[str, int]) -> None:
    _, instance = panoptic(stuff="class", id_order=order).prepare(scene(), RNG, train=False).targets["panoptic"]
    found = {"ball": instance[10, 2], "high": instance[2, 11], "low": instance[9, 12]}
    assert {name: found[name] for name in numbers} == numbers
    assert instance[0, 0] == 0 and instance[15, 15] == 0, "stuff carries a number although stuff is 'class'"


def test_crowds_are_void_or_one_more_segment_in_training_and_never_in_evaluation() -> None:
    """COCO's crowds: UViM's training sees a segment of their class, the counting rule tells them from segments."""
    row = scene()
    row["panoptic"][9:14, 1:5] = 0
    row["crowd"] = np.where(np.arange(16)[:, None] >= 14, BOX, 0) * np.ones((1, 16), dtype=np.int32)
    row["panoptic"][14:] = 0
    both, one = panoptic(crowds="segment"), panoptic()
    classes, instance = both.prepare(row, RNG, train=True).targets["panoptic"]
    assert (classes[14:] == BOX).all() and len({int(instance[15, 0]), int(instance[2, 11]), int(instance[9, 12])}) == 3
    assert (instance[14:] == instance[15, 0]).all() and instance[15, 0] > 0
    assert (classes[9:14, 1:5] == 0).all(), "void that is no crowd stays void"
    for task, train in ((both, False), (one, True)):
        assert (task.prepare(row, RNG, train=train).targets["panoptic"][:, 14:] == 0).all()
    assert (row["panoptic"][14:] == 0).all(), "the row itself changed"


def test_number_mode_gives_every_segment_a_number_stuff_included() -> None:
    classes, instance = panoptic(stuff="number").prepare(scene(), RNG, train=False).targets["panoptic"]
    segments = {(int(c), int(i)) for c, i in zip(classes.ravel(), instance.ravel(), strict=True)}
    assert sorted(i for _, i in segments) == [1, 2, 3, 4, 5], "two segments share a number, so would share one class"


def test_ids_shared_by_two_classes_are_two_segments() -> None:
    row = scene()
    row["panoptic"][9:14, 1:5], row["panoptic"][8:12, 11:15] = (BALL, 1), (BOX, 1)
    _, instance = panoptic(stuff="class").prepare(row, RNG, train=False).targets["panoptic"]
    assert instance[10, 2] != instance[9, 12]


def test_ids_as_large_as_cocos_are_numbered() -> None:
    row = scene()
    row["panoptic"][..., 1] *= 1_500_000
    small = panoptic().prepare(scene(), RNG, train=False).targets["panoptic"]
    np.testing.assert_array_equal(panoptic().prepare(row, RNG, train=False).targets["panoptic"], small)


@pytest.mark.parametrize("stuff", ["class", "number"])
def test_perfect_outputs_give_no_loss_and_the_truth(stuff: str) -> None:
    task = panoptic(stuff=stuff)
    batch = batch_of(task, scene(), scene())
    targets = task.encode_targets(batch)
    assert targets.shape == (2, task.channels, 16, 16)
    assert sum(task.loss(targets * 50, batch).values()) < 1e-4
    for prediction, truth in zip(task.decode(targets * 50, batch), task.truth(batch), strict=True):
        for found, expected in zip(values(prediction), values(truth), strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == np.int32


def test_class_mode_never_mixes_stuff_and_things() -> None:
    task = panoptic(stuff="class")
    batch = batch_of(task, scene())
    outputs = torch.randn(1, task.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    classes, numbers = values(task.decode(outputs, batch)[0])
    assert set(np.unique(classes[numbers == 0])) <= {0, SKY, GROUND}
    assert set(np.unique(classes[numbers > 0])) <= {BALL, BOX}


def test_number_mode_gives_one_class_a_segment_by_summed_logits() -> None:
    task = panoptic(stuff="number")
    outputs = torch.zeros(1, task.channels, 16, 16)
    outputs[:, len(CLASSES) + 1 + 2] = 9.0  # one segment, number 2
    outputs[:, BALL] = 1.0
    outputs[:, BOX, 0] = 17.0  # one row of sixteen outweighs all others
    classes, numbers = values(task.decode(outputs, batch_of(task, scene()))[0])
    assert (numbers == 2).all() and (classes == BOX).all()


def test_small_segments_become_void() -> None:
    task = panoptic(stuff="number", min_fraction=17 / 256)
    batch = batch_of(task, scene())
    classes, numbers = values(task.decode(task.encode_targets(batch) * 50, batch)[0])
    assert classes[2, 11] == 0 and numbers[2, 11] == 0, "the box of 16 pixels stayed"
    assert classes[10, 2] == BALL, "the ball of 20 pixels went"


def test_thing_weight_weighs_mistakes_on_things_only() -> None:
    light, heavy = panoptic(stuff="class"), panoptic(stuff="class", thing_weight=5.0)
    batch = batch_of(light, scene())
    right = light.encode_targets(batch) * 50
    thing = torch.from_numpy(batch.targets["panoptic"].numpy()[:, :1] >= BALL)
    wrong_things, wrong_stuff = torch.where(thing, 0.0, right), torch.where(thing, right, 0.0)
    for outputs, factor in ((wrong_things, 5), (wrong_stuff, 1)):
        losses = [float(sum(task.loss(outputs, batch).values())) for task in (light, heavy)]
        assert losses[1] == pytest.approx(factor * losses[0], rel=1e-4)


def test_more_segments_than_channels_cost_no_loss_but_stay_true() -> None:
    task = panoptic(stuff="number", max_instances=3)
    batch = batch_of(task, scene())
    assert batch.targets["panoptic"][0, 1].max() == 5
    assert torch.isfinite(sum(task.loss(torch.zeros(1, task.channels, 16, 16), batch).values()))
    assert task.encode_targets(batch)[0, -3:].sum(0).min() == 0, "a number out of range must be no number at all"


def test_image_and_labels_are_augmented_alike() -> None:
    row = scene()
    row["image"] = np.repeat(row["panoptic"][..., :1], 3, axis=-1).astype(np.uint8) * 20
    for augment in ("flip", "inception"):
        task = panoptic(augment=augment, resize="uvim")
        seen = set()
        for seed in range(20):
            example = task.prepare(row, np.random.default_rng(seed), train=True)
            classes = np.rint((example.inputs["image"][0] + 1) * 127.5 / 20)
            agreement = np.mean(classes == example.targets["panoptic"][0])
            assert agreement == 1 if augment == "flip" else agreement > 0.6, f"{augment}, seed {seed}"
            seen.add(example.inputs["image"].tobytes())
        assert len(seen) > (1 if augment == "flip" else 10), f"{augment} did nothing"


def test_rows_without_answers_can_be_predicted() -> None:
    example = panoptic().prepare({"image": scene()["image"]}, RNG, train=False)
    assert example.targets == {}
    assert example.inputs["image"].shape == (3, 16, 16) and np.abs(example.inputs["image"]).max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"panoptic": np.full((16, 16, 2), 9)}, "class 9"),
        ({"panoptic": np.zeros((8, 16, 2), dtype=int)}, "do not fit"),
        ({"image": np.zeros((16, 16), dtype=np.uint8), "key": 41}, "row 41"),
    ],
)
def test_bad_rows_say_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        panoptic().prepare(scene() | change, RNG, train=False)


def test_classes_come_from_the_dataset() -> None:
    info = DatasetInfo(name="scenes", fields=("image", "panoptic"), classes=CLASSES, category_ids=(10, 20, 30, 40))
    config = Panoptic.Config(**Panoptic.configure({"max_instances": 6}, info))
    assert config.classes == CLASSES and config.category_ids == (10, 20, 30, 40) and config.max_instances == 6
    with pytest.raises(DataError, match="classes"):
        Panoptic(Panoptic.Config(), (16, 16))


def test_saved_files_are_coco_panoptic(tmp_path: Path) -> None:
    task = panoptic(category_ids=(10, 20, 30, 40), stuff="number")
    truth = task.truth(batch_of(task, scene()))[0]
    png, description = truth.save(tmp_path / "new" / "street.jpg")
    assert (png.name, description.name) == ("street.png", "street.json")
    ids, content = rgb_to_ids(np.asarray(Image.open(png))), json.loads(description.read_text())
    infos = content["annotations"][0]["segments_info"]
    assert content["annotations"][0]["file_name"] == content["images"][0]["file_name"] == "street.png"
    categories = {c["id"]: (c["name"], c["isthing"]) for c in content["categories"]}
    assert sorted(np.unique(ids)) == sorted(i["id"] for i in infos), "segments in the picture are not those described"
    assert all(np.sum(ids == info["id"]) == info["area"] for info in infos)
    ball = next(info for info in infos if categories[info["category_id"]][0] == "ball")
    assert (ball["category_id"], categories[30], ball["bbox"]) == (30, ("ball", 1), [1, 9, 4, 5])
    assert sum(categories[info["category_id"]][0] == "box" for info in infos) == 2


def test_void_is_saved_as_zero(tmp_path: Path) -> None:
    row = scene()
    row["panoptic"][:3] = 0
    task = panoptic()
    png, _ = task.truth(batch_of(task, row))[0].save(tmp_path / "a")
    ids = rgb_to_ids(np.asarray(Image.open(png)))
    assert (ids[:3, :8] == 0).all() and (ids[6:] > 0).all()


def test_pictures_tell_instances_apart_and_stuff_together() -> None:
    row = scene()
    row["panoptic"][6:, :, 1] += 100  # the same ground under another number
    row["panoptic"][14:, :, 1] += 5
    task = panoptic()
    image = task.truth(batch_of(task, row))[0].image()
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert (image[3, 12] != image[10, 13]).any(), "two boxes in one colour"
    assert (image[7, 3] == image[15, 3]).all(), "ground in two colours"


def test_restored_answers_have_the_size_of_the_photo() -> None:
    task = panoptic()
    truth = task.truth(batch_of(task, scene()))[0]
    restored = task.restore(truth, np.zeros((48, 33, 3), dtype=np.uint8))
    assert restored.values["class"].shape == (48, 33)
    assert set(np.unique(restored.values["instance"])) == set(np.unique(truth.values["instance"]))


def test_baseline_is_the_commonest_class_of_each_pixel() -> None:
    task = panoptic()
    other = scene()
    other["panoptic"][:] = (GROUND, 0)
    answer = task.baseline(iter([batch_of(task, scene(), scene()), batch_of(task, other)]))
    predictions = answer(batch_of(task, other, other))
    classes, instance = values(predictions[0])
    assert len(predictions) == 2
    np.testing.assert_array_equal(classes, scene()["panoptic"][..., 0])
    np.testing.assert_array_equal(instance, classes)


def rgb_to_ids(image: np.ndarray) -> np.ndarray:
    """The ids of a COCO panoptic PNG, as panopticapi reads them."""
    return image.astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)


def test_predictions_are_a_data_set_that_the_coco_reader_reads(tmp_path):
    """What `predict` writes is the official COCO panoptic document, not something like it."""
    from cynosure.host import load_host

    classes = (("sky", False), ("car", True))
    task = Panoptic(Panoptic.Config(classes=classes, category_ids=(7, 3), max_instances=4), (4, 6))
    values = {"class": np.ones((4, 6), np.int32), "instance": np.zeros((4, 6), np.int32)}
    values["class"][2:, :3] = values["class"][2:, 4:] = 2
    values["instance"][2:, :3], values["instance"][2:, 4:] = 1, 2
    (tmp_path / "val").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "val" / "street.png")
    Prediction(task, values).save(tmp_path / "panoptic_val" / "street.png")
    files = {"images": "val", "panoptic": "panoptic_val", "json": "panoptic_val/street.json"}
    options = {"name": "coco_panoptic", "root": str(tmp_path), "splits": {"train": files, "test": files}}
    data = load_host().components.build("dataset", options)
    row = data.rows("test")[0]["panoptic"]
    assert data.info.classes == classes and data.info.category_ids == (7, 3)
    assert np.array_equal(row[..., 0], values["class"])
    assert len(np.unique(row[..., 1])) == 3, "the sky and two cars"


@pytest.mark.parametrize(("stuff", "sky"), [("number", 1), ("class", 0)])
def test_void_is_no_segment_and_negative_labels_are_none(stuff: str, sky: int) -> None:
    """As UViM prepares its data: void stays (0, 0) whatever its id; a negative class or id is outside of the loss."""
    task = Panoptic(Panoptic.Config(classes=(("sky", False), ("car", True)), max_instances=4, stuff=stuff), (1, 6))
    labels = np.array([[[0, 9], [-1, 3], [2, -1], [1, -1], [1, 0], [2, 5]]])
    assert task.number(labels)[1].tolist() == [[0, -1, -1, -1, sky, sky + 1]]
