"""Structural similarity: how alike two pictures are to the eye, in small windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cynosure import hookimpl
from cynosure_plugins.metrics.picture_metric import PictureMetric

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
PEAK = 255.0


def _weights() -> np.ndarray:
    at = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(at**2) / (2 * SIGMA**2))
    return weights / weights.sum()


_WEIGHTS = _weights()


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """SSIM of pictures [H, W] or [H, W, C] of levels in [0, 255], mean over windows and channels (Wang et al. 2004).

    Gaussian windows of 11 x 11 pixels, sigma 1.5, that lie within the picture; ValueError where none does.
    """
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(f"SSIM needs {WINDOW} x {WINDOW} pixels, not {image.shape[0]} x {image.shape[1]}")
    x, y = image.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y, xx, yy, xy = (_blurred(each) for each in (x, y, x * x, y * y, x * y))
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    both = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    likeness = (2 * both + c1) * (2 * (xy - both) + c2) / ((squares + c1) * (xx + yy - squares + c2))
    return float(likeness.mean())


def _blurred(values: np.ndarray) -> np.ndarray:
    """[H, W, ...] -> [H - 10, W - 10, ...] under the window."""
    for axis in (0, 1):
        length = values.shape[axis] - WINDOW + 1
        shifted = (values.take(range(i, i + length), axis) for i in range(WINDOW))
        values = sum((w * each for w, each in zip(_WEIGHTS, shifted, strict=True)), np.zeros(()))
    return values


class Ssim(PictureMetric):
    """ssim: mean over pictures of predictions with value 'rgb', uint8 [H, W, 3]; 1 for equal pictures.

    Pictures below 11 x 11 pixels have none and are left out; NaN before the first other one.
    """

    def __init__(self, config: PictureMetric.Config) -> None:
        super().__init__(config, "ssim")

    def judge(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
        if min(truth["rgb"].shape[:2]) < WINDOW:
            return {}
        return {"ssim": ssim(prediction["rgb"], truth["rgb"])}


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("ssim", Ssim)
