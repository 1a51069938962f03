"""A small classifier in a file: judge of labels, and network of named distances."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cynosure.core.records import Prediction
from cynosure.errors import CheckpointError, CynosureError
from cynosure_plugins.metrics.feature_distance import FeatureDistance
from cynosure_plugins.metrics.feature_networks import load_network
from cynosure_plugins.metrics.label_accuracy import LabelAccuracy
from cynosure_plugins.metrics.picture_classifier import PictureClassifier, load_classifier
from cynosure_tasks.generation import Generation

TASK = Generation(Generation.Config(), (8, 8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("networks") / "three.safetensors"
    PictureClassifier(("a", "b", "c"), (4, 6), 8, "three_classes").save(file)
    return file


def pictures(count: int, size: int = 8) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8))


def samples(weights: Path, wrong: int) -> list[Prediction]:
    """Twelve pictures labelled as the classifier sees them, the first `wrong` otherwise."""
    images = pictures(12)
    seen = load_classifier(str(weights))(torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2))).argmax(1).tolist()
    labels = [(label + (i < wrong)) % 3 for i, label in enumerate(seen)]
    return [Prediction(TASK, {"rgb": x}, meta={"label": label}) for x, label in zip(images, labels, strict=True)]


def test_the_share_of_labels_that_the_classifier_sees(weights: Path) -> None:
    metric = LabelAccuracy(LabelAccuracy.Config(weights=str(weights)))
    assert math.isnan(metric.compute()["label_accuracy"])
    answers = samples(weights, wrong=3)
    metric.update(answers[:5], answers[:5])
    metric.update(answers[5:], answers[5:])
    assert float(metric.compute()["label_accuracy"]) == pytest.approx(0.75)


def test_pictures_without_a_label_or_with_an_unknown_one_are_errors(weights: Path) -> None:
    metric, image = LabelAccuracy(LabelAccuracy.Config(weights=str(weights))), pictures(1)[0]
    for meta, told in (({}, "condition: label"), ({"label": 7}, "labels 0 to 2, not 7")):
        answer = Prediction(TASK, {"rgb": image}, meta=meta)
        with pytest.raises(CynosureError, match=told):
            metric.update([answer], [answer])


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CynosureError, match="Set `weights`"):
        LabelAccuracy(LabelAccuracy.Config())
    for file in (tmp_path / "none.safetensors", Path(__file__)):
        with pytest.raises(CheckpointError, match="no picture classifier"):
            load_classifier(str(file))


def test_distances_by_the_classifier_carry_its_name(weights: Path) -> None:
    """Never that of FID, whose network it is not."""
    metric = FeatureDistance(FeatureDistance.Config(network=str(weights), subsets=0))
    answers = samples(weights, wrong=0)
    metric.update(answers[:6], answers[6:])
    values = metric.compute()
    assert list(values) == ["fd_three_classes"] and float(values["fd_three_classes"]) > 0


def test_features_are_what_the_last_layer_reads(weights: Path) -> None:
    classifier, images = load_classifier(str(weights)), pictures(3, size=12)
    features = load_network(str(weights)).features(images)
    logits = classifier(torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2)))
    torch.testing.assert_close(classifier.head(torch.from_numpy(features)), logits)
