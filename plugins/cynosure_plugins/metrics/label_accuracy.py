"""How many pictures a classifier takes for what they were asked to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig
from cynosure.core.metrics import Metric, gathered
from cynosure.core.records import Prediction
from cynosure.errors import CynosureError
from cynosure_plugins.metrics.picture_classifier import load_classifier

BATCH = 256


class LabelAccuracy(Metric):
    """label_accuracy: of predictions with 'label' in their `meta` and the value 'rgb', uint8 [H, W, 3] of one size.

    The classifier errs on true pictures too: what it was measured to get on those is the most to expect.
    """

    class Config(PartConfig):
        weights: str = Field("", description="a local file that benchmarks/cifar10_classifier.py wrote")

    TESTING: ClassVar = {"needs": "the file of a classifier"}
    compares = ("rgb",)

    def __init__(self, config: Config) -> None:
        if not config.weights:
            raise CynosureError(
                "which classifier judges? Set `weights` to a file that benchmarks/cifar10_classifier.py wrote."
            )
        self._classifier = load_classifier(config.weights)
        self._device = torch.device("cpu")
        self.reset()

    def reset(self) -> None:
        self._sums = np.zeros(2)

    def to(self, device: torch.device | str) -> Self:
        self._device = torch.device(device)
        self._classifier.to(self._device)
        return self

    @torch.no_grad()
    def update(self, predictions: Sequence[Prediction], truths: Sequence[Prediction]) -> None:
        if len(predictions) != len(truths):
            raise ValueError(f"{len(predictions)} predictions came with {len(truths)} truths")
        labels = torch.tensor([self._label(prediction) for prediction in predictions])
        pixels = torch.from_numpy(np.stack([p.values["rgb"] for p in predictions]).transpose(0, 3, 1, 2).copy())
        found = torch.cat([self._classifier(part.to(self._device)).argmax(1).cpu() for part in pixels.split(BATCH)])
        self._sums += int((found == labels).sum()), len(labels)

    def _label(self, prediction: Prediction) -> int:
        label, classes = prediction.meta.get("label"), len(self._classifier.classes)
        if label is None:
            raise CynosureError(
                "label_accuracy measures pictures made from labels: use it with task generation and condition: label."
            )
        if not 0 <= label < classes:
            raise CynosureError(
                f"the classifier knows labels 0 to {classes - 1}, not {label}: train one on these data."
            )
        return int(label)

    def compute(self) -> dict[str, torch.Tensor]:
        hits, count = np.sum(gathered(self._sums), axis=0)
        return {"label_accuracy": torch.tensor(hits / count if count else torch.nan)}


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("label_accuracy", LabelAccuracy)
