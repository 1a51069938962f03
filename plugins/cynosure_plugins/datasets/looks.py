"""Looks: how one photograph may be retouched. Functions of pictures float32 [H, W, 3] in [0, 1], sRGB as displayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cynosure.data.augment import luma


def _colors(picture: np.ndarray, saturation: float) -> np.ndarray:
    grey = luma(picture)[..., None]
    return grey + np.float32(saturation) * (picture - grey)


def _s_curve(picture: np.ndarray, strength: float) -> np.ndarray:
    """Steeper in the middle, flatter at both ends, which stay; rises everywhere for strengths up to 1."""
    return picture + np.float32(strength) * picture * (1 - picture) * (2 * picture - 1)


def _tinted(picture: np.ndarray, red: float, green: float, blue: float) -> np.ndarray:
    return picture * np.array([red, green, blue], np.float32)


LOOKS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "neutral": lambda picture: picture,
    "warm": lambda picture: _tinted(picture, 1.08, 1.0, 0.82),
    "cool": lambda picture: _tinted(picture, 0.86, 0.98, 1.08),
    "vivid": lambda picture: _colors(_s_curve(picture, 0.3), 1.5),
    "faded": lambda picture: 0.14 + 0.74 * _colors(picture, 0.55),
    "contrast": lambda picture: _s_curve(picture, 0.9),
}


def in_look(image: np.ndarray, name: str) -> np.ndarray:
    """A uint8 picture [H, W, 3] in a look of the table."""
    if name == "neutral":
        return image
    picture = LOOKS[name](image.astype(np.float32) / np.float32(255))
    return (np.clip(picture, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
