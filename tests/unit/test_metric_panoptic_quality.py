"""Panoptic quality against torchmetrics and against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cynosure.compat import repair_torchvision
from cynosure.core.records import Prediction
from cynosure_plugins.metrics.panoptic_quality import PanopticQuality
from cynosure_tasks.panoptic import Panoptic

CLASSES = (("sky", False), ("ground", False), ("ball", True), ("box", True))
SKY, GROUND, BALL, BOX = 1, 2, 3, 4
TASK = Panoptic(Panoptic.Config(classes=CLASSES), (10, 10))


def quality() -> PanopticQuality:
    return PanopticQuality(PanopticQuality.Config(classes=CLASSES))


def answer(classes: np.ndarray, instance: np.ndarray | int) -> Prediction:
    instance = np.broadcast_to(instance, classes.shape)
    return Prediction(TASK, {"class": classes.astype(np.int32), "instance": instance.astype(np.int32)})


def of(prediction: Prediction, truth: Prediction) -> dict[str, float]:
    metric = quality()
    metric.update([prediction], [truth])
    return {name: float(value) for name, value in metric.compute().items()}


def columns(*widths_and_labels: tuple[int, int, int]) -> Prediction:
    """A 10 x 10 picture of vertical bands (width, class, instance)."""
    bands = [np.full((10, width, 2), (c, i)) for width, c, i in widths_and_labels]
    both = np.concatenate(bands, axis=1)
    return answer(both[..., 0], both[..., 1])


def blocks(rng: np.random.Generator, void: bool) -> tuple[np.ndarray, np.ndarray]:
    classes = rng.integers(0 if void else 1, 5, (6, 6)).repeat(5, 0).repeat(5, 1)
    return classes, rng.integers(1, 3, (6, 6)).repeat(5, 0).repeat(5, 1)


def test_equals_torchmetrics_where_predictions_have_no_void() -> None:
    repair_torchvision()
    from torchmetrics.detection import PanopticQuality as Reference

    rng = np.random.default_rng(0)
    ours = quality()
    reference = Reference(things={BALL, BOX}, stuffs={SKY, GROUND}, return_sq_and_rq=True)
    for _ in range(12):
        classes, instance = blocks(rng, void=True)
        noisy = np.where(rng.random(classes.shape) < 0.15, rng.integers(1, 5, classes.shape), np.maximum(classes, 1))
        pair = [answer(noisy, instance), answer(classes, instance)]
        ours.update(pair[:1], pair[1:])
        maps = [torch.from_numpy(np.stack([p.values["class"], p.values["instance"]], -1)).long()[None] for p in pair]
        maps[1][maps[1][..., 0] == 0] = torch.tensor([5, 0])  # the reference's void
        reference.update(*maps)
    results = ours.compute()
    expected = reference.compute().tolist()
    assert [float(results[name]) for name in ("pq", "sq", "rq")] == pytest.approx(expected, rel=1e-6)
    assert 0.1 < expected[0] < 0.95, "the case is too easy or too hard to tell anything"


def test_a_perfect_answer_scores_one_in_every_group() -> None:
    truth = columns((3, SKY, 0), (3, GROUND, 0), (2, BALL, 1), (2, BALL, 2))
    results = of(truth, truth)
    assert all(value == 1 for value in results.values())
    assert set(results) >= {"pq", "pq_things", "pq_stuff", "pq/sky", "pq/ball"}
    assert "pq/box" not in results, "a class that nobody saw has no score"


def test_numbers_of_instances_do_not_matter() -> None:
    truth = columns((4, SKY, 0), (3, BALL, 1), (3, BALL, 2))
    assert of(columns((4, SKY, 5), (3, BALL, 9), (3, BALL, 4)), truth)["pq"] == 1


def test_stuff_is_one_segment_a_class_whatever_its_numbers() -> None:
    assert of(columns((5, SKY, 1), (5, SKY, 2)), columns((10, SKY, 0)))["pq"] == 1


def test_merged_instances_cost_quality() -> None:
    """A prediction that covers two balls of 6 and 4 columns with one: IoU .6, one ball missed."""
    results = of(columns((10, BALL, 1)), columns((6, BALL, 1), (4, BALL, 2)))
    assert results["sq"] == pytest.approx(0.6)
    assert results["rq"] == pytest.approx(1 / 1.5)


def test_half_an_overlap_is_no_match() -> None:
    results = of(columns((5, BALL, 1), (5, SKY, 0)), columns((10, BALL, 1)))
    assert results["pq_things"] == 0 and results["pq_stuff"] == 0


def test_void_in_the_truth_counts_for_neither_side() -> None:
    truth = columns((6, SKY, 0), (4, 0, 0))
    assert of(columns((10, SKY, 0)), truth)["pq"] == 1
    mostly_void = of(columns((6, SKY, 0), (4, BOX, 1)), truth)
    assert mostly_void["pq"] == 1 and "pq/box" not in mostly_void, "a segment on void pixels is no error"


def test_void_in_the_prediction_is_an_error() -> None:
    truth = columns((6, SKY, 0), (4, GROUND, 0))
    results = of(columns((6, SKY, 0), (4, 0, 0)), truth)
    assert results["pq/sky"] == 1 and results["pq/ground"] == 0 and results["pq"] == 0.5


def test_all_void_pictures_and_no_pictures_are_nan_not_zero() -> None:
    void = answer(np.zeros((4, 4)), 0)
    metric = quality()
    assert math.isnan(metric.compute()["pq"])
    metric.update([void], [void])
    assert math.isnan(metric.compute()["pq"]) and math.isnan(metric.compute()["pq_things"])
    sky = columns((10, SKY, 0))
    metric.update([sky], [sky])
    assert metric.compute()["pq"] == 1


def test_reset_forgets_and_lists_must_pair_up() -> None:
    metric, sky, ground = quality(), columns((10, SKY, 0)), columns((10, GROUND, 0))
    metric.update([sky], [ground])
    metric.reset()
    metric.update([sky], [sky])
    assert metric.compute()["pq"] == 1
    with pytest.raises(ValueError, match="argument"):
        metric.update([sky, sky], [sky])
