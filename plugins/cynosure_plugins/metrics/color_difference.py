"""How different colours look: CIEDE2000, and the angle between them, which brightness does not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cynosure import hookimpl
from cynosure_plugins.metrics.color_error import rgb_to_lab
from cynosure_plugins.metrics.picture_metric import PictureMetric

GREY_CHROMA = 25.0**7


def delta_e2000(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """CIEDE2000 difference of Lab colours [..., 3], with all weights 1 (Sharma, Wu and Dalal 2005)."""
    (L1, a1, b1), (L2, a2, b2) = (np.moveaxis(each, -1, 0) for each in (first, second))
    grey = _greyness((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)
    a1, a2 = a1 * (1.5 - grey), a2 * (1.5 - grey)
    C1, C2, h1, h2 = np.hypot(a1, b1), np.hypot(a2, b2), _hue(a1, b1), _hue(a2, b2)
    turn = np.mod(h2 - h1 + 180, 360) - 180  # the short way round
    turn = np.where(C1 * C2 == 0, 0, turn)
    L, C, dL, dC = (L1 + L2) / 2, (C1 + C2) / 2, L2 - L1, C2 - C1
    dH = 2 * np.sqrt(C1 * C2) * np.sin(np.radians(turn / 2))
    h = np.where(C1 * C2 == 0, h1 + h2, h1 + turn / 2) % 360
    T = 1 - 0.17 * _cos(h - 30) + 0.24 * _cos(2 * h) + 0.32 * _cos(3 * h + 6) - 0.2 * _cos(4 * h - 63)
    S_L = 1 + 0.015 * (L - 50) ** 2 / np.sqrt(20 + (L - 50) ** 2)
    S_C, S_H = 1 + 0.045 * C, 1 + 0.015 * C * T
    rotation = -2 * 2 * _greyness(C) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    chroma, hue = dC / S_C, dH / S_H
    return np.sqrt(np.maximum((dL / S_L) ** 2 + chroma**2 + hue**2 + rotation * chroma * hue, 0))


def _greyness(chroma: np.ndarray) -> np.ndarray:
    """From 0 for grey to 1/2 for vivid colours."""
    seventh = chroma**7
    return np.sqrt(seventh / (seventh + GREY_CHROMA)) / 2


def _hue(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.arctan2(b, a)) % 360


def _cos(degrees: np.ndarray) -> np.ndarray:
    return np.cos(np.radians(degrees))


def angular_error(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angle in degrees between RGB vectors [..., 3]; 0 where one of them is black and has no direction."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosines = np.divide((first * second).sum(-1), lengths, out=np.ones_like(lengths), where=lengths > 0)
    return np.degrees(np.arccos(cosines.clip(-1, 1)))


class DeltaE2000(PictureMetric):
    """delta_e2000: mean CIEDE2000 difference over pixels, then pictures, of predictions with value 'rgb', uint8
    [H, W, 3]; about 1 can just be seen. NaN before the first picture."""

    def __init__(self, config: PictureMetric.Config) -> None:
        super().__init__(config, "delta_e2000")

    def judge(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
        difference = delta_e2000(rgb_to_lab(prediction["rgb"]), rgb_to_lab(truth["rgb"]))
        return {"delta_e2000": float(difference.mean())}


class AngularError(PictureMetric):
    """angular_error: mean angle in degrees between predicted and true RGB colours over pixels, then pictures, of
    predictions with value 'rgb', uint8 [H, W, 3]. NaN before the first picture."""

    def __init__(self, config: PictureMetric.Config) -> None:
        super().__init__(config, "angular_error")

    def judge(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {"angular_error": float(angular_error(prediction["rgb"], truth["rgb"]).mean())}


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("delta_e2000", DeltaE2000)
    register.metric("angular_error", AngularError)
