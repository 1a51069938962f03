"""Peak signal-to-noise ratio: how close a picture is to the true one, pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cynosure import hookimpl
from cynosure_plugins.metrics.picture_metric import PictureMetric

PSNR_LIMIT = 100.0
"""What two equal pictures count for, in dB, so that one of them does not make a mean infinite."""


def psnr(image: np.ndarray, truth: np.ndarray, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of one shape; infinite where they are equal."""
    error = np.mean((image.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(data_range**2 / error)) if error > 0 else float("inf")


class Psnr(PictureMetric):
    """psnr: mean over pictures in dB of predictions with value 'rgb', uint8 [H, W, 3]; NaN before the first
    picture."""

    def __init__(self, config: PictureMetric.Config) -> None:
        super().__init__(config, "psnr")

    def judge(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {"psnr": min(psnr(prediction["rgb"], truth["rgb"], 255), PSNR_LIMIT)}


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("psnr", Psnr)
