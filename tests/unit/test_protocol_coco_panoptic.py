"""COCO's counting rule for crowds and void, the way to the pictures' own size, and files that other programs read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cynosure.core.records import Prediction
from cynosure.errors import DataError
from cynosure_plugins.metrics.panoptic_quality import PanopticQuality
from cynosure_plugins.protocols.coco_panoptic import CocoPanoptic
from cynosure_plugins.protocols.panoptic_files import read_rgb, read_two_channel, write_two_channel
from cynosure_tasks.panoptic import Panoptic

CLASSES = (("sky", False), ("ball", True), ("box", True))
SKY, BALL, BOX = 1, 2, 3
CATEGORIES = (187, 1, 90)
TASK = Panoptic(Panoptic.Config(classes=CLASSES, category_ids=CATEGORIES), (4, 10))


def protocol(**options) -> CocoPanoptic:
    return CocoPanoptic(CocoPanoptic.Config(**options), TASK)


def strip(*bands: tuple[int, int, int]) -> np.ndarray:
    """A 4 x n map (class, instance) of vertical bands (width, class, instance)."""
    return np.concatenate([np.full((4, width, 2), (c, i)) for width, c, i in bands], axis=1)


def row(labels: np.ndarray, crowd: np.ndarray | None = None) -> dict:
    crowd = np.zeros(labels.shape[:2], dtype=np.int32) if crowd is None else crowd
    image = np.zeros((*labels.shape[:2], 3), dtype=np.uint8)
    return {"image": image, "panoptic": labels, "crowd": crowd, "image_id": 42, "file_name": "000042.png"}


def answer(labels: np.ndarray) -> Prediction:
    return Prediction(TASK, {"class": labels[..., 0], "instance": labels[..., 1]})


def score(given: np.ndarray, of: dict, **options) -> dict[str, float]:
    rules = protocol(**options)
    metric = PanopticQuality(PanopticQuality.Config(**rules.metrics()["panoptic_quality"]))
    metric.update([rules.answer(answer(given), of)], [rules.truth(of)])
    return {name: float(value) for name, value in metric.compute().items()}


def crowd_of(label: int, *columns: int) -> np.ndarray:
    crowd = np.zeros((4, 10), dtype=np.int32)
    crowd[:, list(columns)] = label
    return crowd


def test_a_crowd_is_neither_missed_nor_matched() -> None:
    truth = row(strip((6, BALL, 1), (4, 0, 0)), crowd_of(BALL, 6, 7, 8, 9))
    missed = score(strip((6, BALL, 5), (4, 0, 0)), truth)
    assert missed["pq"] == 1, "a crowd that nobody predicts is no false negative"
    found = score(strip((6, BALL, 5), (4, BALL, 6)), truth)
    assert found["pq"] == 1, "a prediction on a crowd of its class is neither right nor wrong"


def test_a_prediction_on_a_crowd_of_another_class_is_wrong_while_one_on_void_is_not() -> None:
    labels = strip((6, BALL, 1), (4, 0, 0))
    given = strip((6, BALL, 5), (4, BOX, 6))
    other = score(given, row(labels, crowd_of(BALL, 6, 7, 8, 9)))
    assert other["pq/box"] == 0 and other["pq"] == 0.5
    void = score(given, row(labels))
    assert void["pq"] == 1 and "pq/box" not in void


def test_crowd_pixels_are_part_of_the_union_and_void_pixels_are_not() -> None:
    """The answer covers the ball's 6 columns and 4 more: IoU 6 / 10 if these are crowd, 6 / 6 if they are void."""
    given = strip((10, BALL, 1))
    labels = strip((6, BALL, 1), (4, 0, 0))
    assert score(given, row(labels, crowd_of(BALL, 6, 7, 8, 9)))["sq"] == pytest.approx(0.6)
    assert score(given, row(labels))["sq"] == 1
    both = score(given, row(labels, crowd_of(BALL, 6, 7)))
    assert both["sq"] == pytest.approx(6 / 8)


def test_exactly_half_on_void_and_crowd_does_not_excuse() -> None:
    labels = strip((5, SKY, 1), (3, BALL, 2), (2, 0, 0))
    half = score(strip((5, SKY, 1), (3, 0, 0), (2, BOX, 2)), row(labels))
    assert "pq/box" not in half, "all of it on void"
    given = strip((5, SKY, 1), (1, 0, 0), (4, BOX, 2))
    assert score(given, row(labels))["pq/box"] == 0, "two of four columns are void: half, which is not more than half"
    crowd = np.where(labels[..., 0] == 0, BOX, 0)
    assert score(given, row(labels, crowd))["pq/box"] == 0, "of the crowd too"


def by_the_rule(pairs: list[tuple[np.ndarray, dict]]) -> dict[int, list[float]]:
    """The rule in words, with sets of pixels: class -> [sum of IoU, matches, wrong segments, missed segments]."""
    sums = {c: [0.0, 0, 0, 0] for c in (SKY, BALL, BOX)}
    for given, truth in pairs:
        pixels = [(y, x) for y in range(given.shape[0]) for x in range(given.shape[1])]

        def segments(labels: np.ndarray, pixels: list = pixels) -> dict[tuple[int, int], set]:
            found: dict[tuple[int, int], set] = {}
            for p in pixels:
                if labels[p][0]:
                    found.setdefault(tuple(labels[p].tolist()), set()).add(p)
            return found

        void = {p for p in pixels if not truth["panoptic"][p][0] and not truth["crowd"][p]}
        theirs, ours = segments(truth["panoptic"]), segments(given)
        matched = set()
        for true_key, true in theirs.items():
            partners = []
            for key, segment in ours.items():
                iou = len(segment & true) / len((segment | true) - (void & segment))
                if key[0] == true_key[0] and iou > 0.5:
                    partners.append((key, iou))
            assert len(partners) <= 1
            for key, iou in partners:
                matched.add(key)
                sums[key[0]][0] += iou
                sums[key[0]][1] += 1
            sums[true_key[0]][3] += not partners
        for key, segment in ours.items():
            harmless = {p for p in segment if p in void or truth["crowd"][p] == key[0]}
            if key not in matched and not len(harmless) > len(segment) / 2:
                sums[key[0]][2] += 1
    return sums


@pytest.mark.parametrize("seed", range(20))
def test_the_metric_counts_as_the_rule_says(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def blocks(low: int) -> np.ndarray:
        labels = np.stack([rng.integers(low, 4, (3, 4)), rng.integers(1, 3, (3, 4))], axis=-1)
        return labels.repeat(3, axis=0).repeat(4, axis=1)

    pairs = []
    for _ in range(3):
        labels = blocks(0)
        crowd = np.where((labels[..., 0] == 0) & (labels[..., 1] == 1), blocks(1)[..., 0], 0)
        labels[labels[..., 0] == 0] = 0
        noise = rng.random(labels.shape[:2])[..., None] < 0.25
        pairs.append((np.where(noise, blocks(0), np.where(labels == 0, blocks(0), labels)), row(labels, crowd)))
    metric = PanopticQuality(PanopticQuality.Config(classes=CLASSES, merge_stuff=False))
    for given, truth in pairs:
        metric.update([answer(given)], [protocol().truth(truth)])
    found = metric.compute()
    expected = {}
    for label, (iou, right, wrong, missed) in by_the_rule(pairs).items():
        if right + wrong + missed:
            expected[label] = iou / (right + wrong / 2 + missed / 2)
    assert {f"pq/{CLASSES[c - 1][0]}" for c in expected} == {name for name in found if "/" in name}
    for label, value in expected.items():
        assert float(found[f"pq/{CLASSES[label - 1][0]}"]) == pytest.approx(value, rel=1e-6)
    assert float(found["pq"]) == pytest.approx(np.mean(list(expected.values())), rel=1e-6)


def test_answers_reach_the_picture_by_nearest_neighbours() -> None:
    """Columns of a 3 pixel wide answer on 10: index floor((i + 0.5) * 3 / 10)."""
    small = np.array([[[SKY, 1], [BALL, 1], [BOX, 2]]])
    answered = protocol().answer(answer(small), row(strip((10, SKY, 1))))
    assert answered.values["class"][0].tolist() == [SKY] * 3 + [BALL] * 4 + [BOX] * 3
    assert answered.values["instance"].shape == (4, 10)


def test_small_segments_are_filtered_where_the_model_answers() -> None:
    """A segment of 1 of 10 columns is a share of 0.1, which `min_fraction: 0.1` removes and 0.09 does not."""
    given = strip((9, SKY, 1), (1, BALL, 2))
    truth = row(strip((20, SKY, 1)))
    for fraction, kept in ((0.0, True), (0.09, True), (0.1, False)):
        values = protocol(min_fraction=fraction).answer(answer(given), truth).values
        assert bool((values["class"] == BALL).any()) == kept, fraction
        if not kept:
            assert not values["instance"][:, 18:].any(), "what is removed is void: class and instance 0"


def test_stuff_with_two_numbers_is_two_segments_unless_merged() -> None:
    """UViM numbers stuff like things; neither half then covers more than half of the sky."""
    given, truth = strip((5, SKY, 1), (5, SKY, 2)), row(strip((10, SKY, 7)))
    assert score(given, truth)["pq"] == 0
    assert score(given, truth, merge_stuff=True)["pq"] == 1


def test_saved_segments_are_a_coco_document_that_reads_back(tmp_path: Path) -> None:
    labels = strip((4, SKY, 3), (3, BALL, 1), (2, BALL, 2), (1, 0, 0))
    rules = protocol()
    saved = rules.save(answer(labels), row(labels), 0, tmp_path)
    rules.index([saved], tmp_path)
    document = json.loads((tmp_path / "panoptic.json").read_text())
    assert document["images"] == [{"id": 42, "file_name": "000042.png", "height": 4, "width": 10}]
    (annotation,) = document["annotations"]
    assert (annotation["image_id"], annotation["file_name"]) == (42, "000042.png")
    areas = {(s["category_id"], s["area"]) for s in annotation["segments_info"]}
    assert areas == {(187, 16), (1, 12), (1, 8)}, "category ids, not class ids; void is no segment"
    assert {c["id"] for c in document["categories"]} == set(CATEGORIES)
    file = tmp_path / "panoptic" / "000042.png"
    classes, numbers = read_rgb(file, annotation["segments_info"], CATEGORIES)
    np.testing.assert_array_equal(classes, labels[..., 0])
    assert len(np.unique(np.stack([classes, numbers], -1).reshape(-1, 2), axis=0)) == 4
    with pytest.raises(DataError, match="does not list"):
        read_rgb(file, annotation["segments_info"][:1], CATEGORIES)


def test_two_channel_files_hold_category_and_number_and_read_back(tmp_path: Path) -> None:
    from PIL import Image

    labels = strip((4, SKY, 3), (3, BALL, 1), (2, BOX, 9), (1, 0, 0))
    protocol(format="two_channel").save(answer(labels), row(labels), 0, tmp_path)
    file = tmp_path / "panoptic" / "000042.png"
    pixels = np.asarray(Image.open(file))
    assert [tuple(pixels[0, x]) for x in (0, 4, 7, 9)] == [(187, 3, 0), (1, 1, 0), (90, 9, 0), (0, 0, 0)]
    classes, numbers = read_two_channel(file, CATEGORIES)
    np.testing.assert_array_equal(np.stack([classes, numbers], axis=-1), labels)
    with pytest.raises(DataError, match="187"):
        read_two_channel(file, CATEGORIES[1:])
    with pytest.raises(DataError, match="format: rgb"):
        write_two_channel(file, np.array([[1]]), np.array([[1]]), (300,))
