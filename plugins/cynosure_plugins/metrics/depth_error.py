"""Errors of monocular depth as the NYU Depth v2 evaluation and UViM count them (Eigen et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig
from cynosure.core.metrics import MeanMetric

NAMES = ("rmse", "abs_rel", "log10", "d1", "d2", "d3")


def depth_errors(depth: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The six errors NAMES of depths [N] against true depths [N], both in metres and positive.

    Root mean square error in metres; mean of |error| / truth; mean |difference of log10|; the shares of pixels whose
    ratio to the truth, either way up, is below 1.25, 1.25 ** 2 and 1.25 ** 3.
    """
    error = depth - truth
    ratio = np.maximum(depth / truth, truth / depth)
    near = [np.mean(ratio < 1.25**power) for power in (1, 2, 3)]
    log10 = np.mean(np.abs(np.log10(depth) - np.log10(truth)))
    return np.array([np.sqrt(np.mean(error**2)), np.mean(np.abs(error) / truth), log10, *near])


class DepthError(MeanMetric):
    """Of predictions with value 'depth', float [H, W] in metres.

    Pixels count where min_depth < truth < max_depth; predictions below min_depth are raised to it. Every picture with
    such a pixel counts once, whatever their number; pictures without are skipped. NaN where no picture counted.
    """

    class Config(PartConfig):
        min_depth: float = Field(0.001, gt=0, description="metres")
        max_depth: float = Field(10.0, gt=0, description="metres")

    compares = ("depth",)

    def __init__(self, config: Config) -> None:
        self.range = (config.min_depth, config.max_depth)
        super().__init__(*NAMES)

    def judge(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
        near, far = self.range
        valid = (truth["depth"] > near) & (truth["depth"] < far)
        if not valid.any():
            return {}
        depth, true = (values["depth"][valid].astype(np.float64) for values in (prediction, truth))
        return dict(zip(NAMES, depth_errors(np.maximum(depth, near), true).tolist(), strict=True))


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("depth_error", DepthError)
