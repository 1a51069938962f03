"""Metrics that are sums over pictures, with the face of a `torchmetrics.Metric`: update, compute, reset, to.

Any torchmetrics metric whose `update` takes lists of predictions and truths may be registered in place of one of
these. The built-in ones do without, because importing torchmetrics takes longer than importing torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from cynosure.core.records import Prediction

T = TypeVar("T")


def gathered(value: T) -> list[T]:
    """The `value` of every process, in the order of their ranks; every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


class Metric(ABC):
    """What evaluation asks of a metric that is not of torchmetrics."""

    columns: tuple[str, ...] | None = None
    """The columns of a report that the metric has something to say of, by what their codes come from; None: all."""

    compares: tuple[str, ...] = ()
    """Names of the values of answers that it reads. Asked of a task whose answers have others, it is left out."""

    @abstractmethod
    def reset(self) -> None:
        """Forget every picture."""

    def to(self, device: torch.device | str) -> Self:
        """Compute on `device`; here nothing is."""
        return self

    @abstractmethod
    def update(self, predictions: Sequence[Prediction], truths: Sequence[Prediction]) -> None:
        """Add predictions and their truths, pair by pair; ValueError where their numbers differ."""

    @abstractmethod
    def compute(self) -> dict[str, torch.Tensor]:
        """Results by name, scalar tensors. In distributed runs every process must call it, and all get the same."""


class SumMetric(Metric):
    """Built with the names and sizes of its sums. `update` adds pictures, `compute` reads the sums of all processes."""

    def __init__(self, **sizes: int) -> None:
        self._sizes = sizes
        self.reset()

    def reset(self) -> None:
        self._sums = {name: np.zeros(size) for name, size in self._sizes.items()}

    def update(self, predictions: Sequence[Prediction], truths: Sequence[Prediction]) -> None:
        for prediction, truth in zip(predictions, truths, strict=True):
            for name, value in self.measure(prediction.values, truth.values).items():
                self._sums[name] += value

    def compute(self) -> dict[str, torch.Tensor]:
        everyone = gathered(self._sums)
        sums = {name: np.sum([one[name] for one in everyone], axis=0) for name in self._sums}
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: torch.tensor(float(value)) for name, value in self.results(sums).items()}

    @abstractmethod
    def measure(
        self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray | float]:
        """What one picture adds to the sums; names that are left out get nothing."""

    @abstractmethod
    def results(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Results of all pictures; NaN, without a warning, where a division has nothing to divide by."""


class MeanMetric(SumMetric):
    """Means over pictures of what `judge` says of each; built with the names of that."""

    def __init__(self, *names: str) -> None:
        super().__init__(pictures=1, **dict.fromkeys(names, 1))

    def measure(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        judged = self.judge(prediction, truth)
        return {**judged, "pictures": 1} if judged else {}

    def results(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {name: float(total[0] / sums["pictures"][0]) for name, total in sums.items() if name != "pictures"}

    @abstractmethod
    def judge(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Numbers of one picture, by name; nothing leaves the picture out."""
