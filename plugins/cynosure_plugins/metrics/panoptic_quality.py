"""Panoptic quality PQ = SQ * RQ (Kirillov et al. 2019), by the rules of COCO's official evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig
from cynosure.core.metrics import SumMetric
from cynosure.data.labels import merge_stuff


class PanopticQuality(SumMetric):
    """Of predictions with values 'class' and 'instance', int [H, W], where class 0 is void.

    A predicted and a true segment of one class match if they share more than half of their union. Void pixels of the
    truth count for neither side; a predicted segment that mostly covers them is no error. Void pixels of the
    prediction are errors. (torchmetrics' own PanopticQuality forgives those too; otherwise the two agree.)

    `compute` gives pq, sq, rq over all classes, with the endings _things and _stuff over some, and pq/NAME for each
    class. Classes that occur in neither truth nor prediction are left out; a mean over no class at all is NaN.
    """

    class Config(PartConfig):
        classes: tuple[tuple[str, bool], ...] = Field(description="(name, is a thing) of class ids 1, 2, ...")

    def __init__(self, config: Config) -> None:
        self.names = [name for name, _ in config.classes]
        self.is_thing = np.array([False, *(thing for _, thing in config.classes)])
        size = len(self.is_thing)
        super().__init__(iou=size, matched=size, spurious=size, missed=size)

    def measure(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """By class: the IoU of matched segments, how many matched, predictions without truth, truths without."""
        p_ids, p_segments = merge_stuff(prediction["class"], prediction["instance"], self.is_thing)
        t_ids, t_segments = merge_stuff(truth["class"], truth["instance"], self.is_thing)
        shape = (len(t_segments) + 1, len(p_segments) + 1)
        both = np.bincount((t_ids * shape[1] + p_ids).ravel(), minlength=shape[0] * shape[1]).reshape(shape)
        p_area, t_area, p_in_void = both.sum(axis=0)[1:], both.sum(axis=1)[1:], both[0, 1:]
        shared = both[1:, 1:]
        iou = shared / np.maximum(t_area[:, None] + p_area - shared - p_in_void, 1)
        p_class, t_class = p_segments[:, 0], t_segments[:, 0]
        match = (t_class[:, None] == p_class) & (iou > 0.5)
        found, right = match.any(axis=1), match.any(axis=0)
        size = len(self.is_thing)
        return {
            "iou": np.bincount(t_class, (iou * match).sum(axis=1), size),
            "matched": np.bincount(t_class, found, size),
            "spurious": np.bincount(p_class, ~right & (p_in_void <= p_area / 2), size),
            "missed": np.bincount(t_class, ~found, size),
        }

    def results(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        weight = sums["matched"] + (sums["spurious"] + sums["missed"]) / 2
        seen = weight > 0
        sq = sums["iou"] / np.maximum(sums["matched"], 1)
        rq = sums["matched"] / np.maximum(weight, 0.5)
        results = {}
        for ending, group in (("", seen), ("_things", seen & self.is_thing), ("_stuff", seen & ~self.is_thing)):
            for name, values in (("pq", sq * rq), ("sq", sq), ("rq", rq)):
                results[name + ending] = np.sum(values[group]) / np.sum(group)
        return results | {f"pq/{name}": sq[i] * rq[i] for i, name in enumerate(self.names, start=1) if seen[i]}


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("panoptic_quality", PanopticQuality)
