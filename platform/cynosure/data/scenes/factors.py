"""Scenes of one object with known factors, to measure how a code takes them apart: everything else stays as it is.

A scene is a pure function of its factors. Legend: B scenes, S = 7 factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cynosure.data.scenes.layout import (
    COLORS,
    MATTE,
    MOTTLED,
    SHAPES,
    SKIES,
    SKY_HORIZON,
    SKY_ZENITH,
    SLOTS,
    SUNLIGHT,
    Layout,
)
from cynosure.data.scenes.render import render_layout

FACTORS: dict[str, int] = {
    "shape": len(SHAPES),
    "color": len(COLORS),
    "size": 3,
    "side": 5,
    "distance": 3,
    "sky": len(SKIES),
    "ground": 5,
}
"""How many values each factor has; `side` counts from left to right, `distance` from near to far."""
COUNT = math.prod(FACTORS.values())
_RADII = (0.5, 0.72, 1.0)
_SIDES = (-0.34, -0.17, 0.0, 0.17, 0.34)
_DISTANCES = (2.9, 3.6, 4.6)
_PITCH, _HEIGHT = 0.28, 1.6
_LIGHT = (0.45, -0.55, 0.70)
_GROUNDS = np.array(
    [[0.55, 0.55, 0.55], [0.68, 0.58, 0.36], [0.34, 0.52, 0.30], [0.60, 0.36, 0.28], [0.32, 0.42, 0.60]], np.float32
)


def factors_of(indices: np.ndarray) -> np.ndarray:
    """The factors int64 [B, S] of scenes 0 .. COUNT - 1, the last one counting fastest."""
    return np.stack(np.unravel_index(indices, tuple(FACTORS.values())), axis=1)


def factor_layout(factors: np.ndarray) -> Layout:
    """The layouts of scenes with `factors` int64 [B, S]."""
    shape, color, size, side, distance, sky, ground = factors.T
    batch = len(factors)

    def slots(values: np.ndarray) -> np.ndarray:
        """The first of all slots, which alone is in use, has the values."""
        return np.repeat(values[:, None], SLOTS, axis=1)

    def constant(value: Sequence[float]) -> np.ndarray:
        return np.tile(np.array(value, np.float32), (batch, 1))

    radius, away = (np.array(values, np.float32)[i] for values, i in ((_RADII, size), (_DISTANCES, distance)))
    center = np.stack([np.array(_SIDES, np.float32)[side] * (away + np.float32(0.3)), away, radius], axis=-1)
    light = constant(_LIGHT)
    return Layout(
        present=np.arange(SLOTS) < np.ones((batch, 1)),
        shape=slots(shape),
        color=slots(color),
        material=np.full((batch, SLOTS), MATTE),
        large=slots(size > 0),
        half=slots(np.repeat(radius[:, None], 3, axis=1)),
        center=slots(center),
        yaw=np.full((batch, SLOTS), 0.4, np.float32),
        rgb=slots(np.array(list(COLORS.values()), np.float32)[color]),
        camera_height=np.full(batch, _HEIGHT, np.float32),
        pitch=np.full(batch, _PITCH, np.float32),
        light=light / np.linalg.norm(light, axis=1, keepdims=True),
        ground_kind=np.full(batch, MOTTLED),
        ground_rgb=np.stack([_GROUNDS[ground], np.float32(0.8) * _GROUNDS[ground]], axis=1),
        ground_scale=np.ones(batch, np.float32),
        ground_yaw=np.zeros(batch, np.float32),
        phase=constant([0.0] * 6),
        sky_kind=sky,
        horizon=SKY_HORIZON[sky],
        zenith=SKY_ZENITH[sky],
        sunlight=SUNLIGHT[sky],
    )


def render_factors(factors: np.ndarray, size: int | Sequence[int]) -> np.ndarray:
    """Pictures uint8 [B, H, W, 3] of scenes with `factors` int64 [B, S]; `size` in pixels, of a side or (H, W)."""
    return render_layout(factor_layout(factors), size)
