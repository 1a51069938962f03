"""How close and how vivid predicted colours are: PSNR, and chroma in CIE Lab (D65, 2 degree observer)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig
from cynosure.core.metrics import MeanMetric
from cynosure_plugins.metrics.psnr import PSNR_LIMIT, psnr

_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92).astype(np.float32)
# Linear sRGB to XYZ (IEC 61966-2-1); rows are divided by their sums, so that white is 1, 1, 1 and grey has no chroma.
_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_TO_SHARES = (_TO_XYZ / _TO_XYZ.sum(axis=1, keepdims=True)).T.astype(np.float32)
_TO_LAB = np.array([[0, 116, 0], [500, -500, 0], [0, 200, -200]], dtype=np.float32).T


def rgb_to_lab(image: np.ndarray) -> np.ndarray:
    """sRGB uint8 [..., 3] -> CIE Lab float32 [..., 3]: L in [0, 100], a and b about [-110, 110]."""
    shares = _LINEAR[image] @ _TO_SHARES
    roots = np.where(shares > 0.008856, np.cbrt(shares), 7.787 * shares + np.float32(16 / 116))
    return roots @ _TO_LAB - np.array([16, 0, 0], dtype=np.float32)


class ColorError(MeanMetric):
    """Of predictions with value 'rgb', uint8 [H, W, 3]. All are means over pictures.

    psnr: dB against the true picture, at most 100; chroma, chroma_truth: mean length of (a, b) in Lab, of prediction
    and truth (grey is 0); chroma_ratio: chroma / chroma_truth, below 1 for colours paler than the truth;
    chroma_error: mean distance of predicted from true (a, b). NaN before the first picture, and chroma_ratio also where
    the truth is all grey.
    """

    class Config(PartConfig):
        pass

    compares = ("rgb",)

    def __init__(self, config: Config) -> None:
        super().__init__("psnr", "chroma", "chroma_truth", "chroma_error")

    def judge(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
        ab, true_ab = (rgb_to_lab(values["rgb"])[..., 1:] for values in (prediction, truth))
        return {
            "psnr": min(psnr(prediction["rgb"], truth["rgb"], 255), PSNR_LIMIT),
            "chroma": _length(ab),
            "chroma_truth": _length(true_ab),
            "chroma_error": _length(ab - true_ab),
        }

    def results(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        means = super().results(sums)
        grey = means["chroma_truth"] < 0.01
        return means | {"chroma_ratio": float("nan") if grey else means["chroma"] / means["chroma_truth"]}


def _length(ab: np.ndarray) -> float:
    return float(np.linalg.norm(ab, axis=-1).mean())


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("color_error", ColorError)
