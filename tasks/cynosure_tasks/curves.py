"""Light-enhancement curves of Zero-DCE and STAR: v + a (v² - v), again and again, with a in [-1, 1] for every pixel.

Every step maps [0, 1] onto itself and keeps the order of levels; a below 0 brightens. Source: Guo et al. 2020, section
3.1 (whose alpha is -a). Shapes: B batch, C maps (3 a step, or 3 that all steps share), H W pixels of the picture, h w
rows and columns of the maps.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch

from cynosure_tasks.tiles import ROWS, Change, change_tiled

STEPS = 8


def curve_channels(shared: bool) -> int:
    """C of eight steps."""
    return 3 if shared else 3 * STEPS


def curve_change(channels: int) -> Change:
    """How so many maps bend a picture in eight steps."""
    return partial(_bend, STEPS * 3 // channels)


def _bend(times: int, picture: torch.Tensor, maps: Iterable[torch.Tensor], inplace: bool) -> torch.Tensor:
    """Every three maps bend the picture so many times."""
    square = torch.empty_like(picture) if inplace else None
    for a in maps:
        for _ in range(times):
            if square is None:
                picture = picture + a * (picture * picture - picture)
            else:
                picture.lerp_(torch.mul(picture, picture, out=square), a)
    return picture


def apply_curves(picture: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """Picture [B, 3, H, W] in [0, 1] and its curves [B, C, H, W] in [-1, 1] -> picture [B, 3, H, W]; for training."""
    return curve_change(curves.shape[1])(picture, curves.split(3, dim=1), False)


def apply_curves_tiled(picture: np.ndarray, curves: torch.Tensor, rows: int = ROWS) -> np.ndarray:
    """A picture [H, W, 3] of any size, uint8, uint16 or float32 in [0, 1], bent by curves [C, h, w] in [-1, 1]; at its
    full resolution and in little memory (`change_tiled`)."""
    return change_tiled(picture, curves, curve_change(len(curves)), rows)
