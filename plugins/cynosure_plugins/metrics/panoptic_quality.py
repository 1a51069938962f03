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

    A truth may also have the value 'crowd', int [H, W]: the class of crowds, regions of many things that nobody told
    apart, 0 elsewhere. Nothing matches a crowd and no one misses it, but it is part of a segment's union, which void
    is not; a predicted segment that mostly covers void and crowds of its own class is no error.

    `compute` gives pq, sq, rq over all classes, with the endings _things and _stuff over some, and pq/NAME for each
    class. Classes that occur in neither truth nor prediction are left out; a mean over no class at all is NaN.
    """

    class Config(PartConfig):
        classes: tuple[tuple[str, bool], ...] = Field(description="(name, is a thing) of class ids 1, 2, ...")
        merge_stuff: bool = Field(True, description="whether a class of stuff is one segment whatever its numbers")

    compares = ("class", "instance")

    def __init__(self, config: Config) -> None:
        self.names = [name for name, _ in config.classes]
        self.is_thing = np.array([False, *(thing for _, thing in config.classes)])
        self.numbered = self.is_thing if config.merge_stuff else np.ones_like(self.is_thing)
        size = len(self.is_thing)
        super().__init__(iou=size, matched=size, spurious=size, missed=size)

    def measure(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """By class: the IoU of matched segments, how many matched, predictions without truth, truths without."""
        p_ids, p_segments = merge_stuff(prediction["class"], prediction["instance"], self.numbered)
        t_ids, t_segments = merge_stuff(truth["class"], truth["instance"], self.numbered)
        both = _count_pairs(t_ids, p_ids, (len(t_segments) + 1, len(p_segments) + 1))
        p_area, t_area, p_unlabelled = both.sum(axis=0)[1:], both.sum(axis=1)[1:], both[0, 1:]
        p_class, t_class = p_segments[:, 0], t_segments[:, 0]
        p_in_crowd = p_in_own_crowd = np.zeros_like(p_area)
        if "crowd" in truth:
            crowds = _count_pairs(np.where(t_ids == 0, truth["crowd"], 0), p_ids, (len(self.is_thing), both.shape[1]))
            p_in_crowd = crowds[1:, 1:].sum(axis=0)
            p_in_own_crowd = crowds[p_class, np.arange(1, both.shape[1])]
        p_in_void = p_unlabelled - p_in_crowd
        shared = both[1:, 1:]
        iou = shared / np.maximum(t_area[:, None] + p_area - shared - p_in_void, 1)
        match = (t_class[:, None] == p_class) & (iou > 0.5)
        found, right = match.any(axis=1), match.any(axis=0)
        excused = p_in_void + p_in_own_crowd > p_area / 2
        size = len(self.is_thing)
        return {
            "iou": np.bincount(t_class, (iou * match).sum(axis=1), size),
            "matched": np.bincount(t_class, found, size),
            "spurious": np.bincount(p_class, ~right & ~excused, size),
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


def _count_pairs(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How many pixels have each pair of labels, int [rows, columns] of the given shape."""
    return np.bincount((rows * shape[1] + columns).ravel(), minlength=shape[0] * shape[1]).reshape(shape)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("panoptic_quality", PanopticQuality)
