"""Light-enhancement curves of Zero-DCE and STAR: v + a (v² - v), again and again, with a in [-1, 1] for every pixel.

Every step maps [0, 1] onto itself and keeps the order of levels; a below 0 brightens. Source: Guo et al. 2020, section
3.1 (whose alpha is -a). Shapes: B batch, C maps (3 a step, or 3 that all steps share), H W pixels of the picture, h w
rows and columns of the maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F

STEPS = 8
ROWS = 16
"""Rows of a tile at most; with three channels of a wide picture they still fit into a core's cache."""
LEVELS = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}


def curve_channels(shared: bool) -> int:
    """C of eight steps."""
    return 3 if shared else 3 * STEPS


def by_step(curves: torch.Tensor, dim: int = 1) -> tuple[torch.Tensor, ...]:
    """The maps of each of eight steps; the same for all where there are only three."""
    steps = curves.split(3, dim)
    return steps * STEPS if len(steps) == 1 else steps


def apply_curves(picture: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """Picture [B, 3, H, W] in [0, 1] and its curves [B, C, H, W] in [-1, 1] -> picture [B, 3, H, W]; for training."""
    for a in by_step(curves):
        picture = picture + a * (picture * picture - picture)
    return picture


@torch.inference_mode()
def apply_curves_tiled(picture: np.ndarray, curves: torch.Tensor, rows: int = ROWS) -> np.ndarray:
    """A picture [H, W, 3] of any size, uint8, uint16 or float32 in [0, 1], bent by curves [C, h, w] in [-1, 1].

    Maps are enlarged bilinearly (half-pixel centres) for one tile of rows at a time, never as a whole: memory for the
    answer and little else. The same as enlarging them all and `apply_curves`, up to rounding.
    """
    height, width = picture.shape[:2]
    result = np.empty_like(picture)
    most = LEVELS[picture.dtype]
    buffers = torch.empty(3, 3, rows, width)
    for here, lower, difference, shares in _tiles(curves, (height, width), rows):
        v, a, square = (each[:, : len(shares)] for each in buffers)
        v.copy_(torch.from_numpy(picture[here].astype(np.float32)).permute(2, 0, 1)).mul_(1 / most)
        for start, slope in zip(by_step(lower, 0), by_step(difference, 0), strict=True):
            torch.addcmul(start, shares, slope, out=a)
            torch.mul(v, v, out=square)
            v.lerp_(square, a)
        v.clamp_(0, 1).mul_(most)
        if picture.dtype.kind == "u":
            v.round_()
        result[here] = v.permute(1, 2, 0).numpy()
    return result


def _tiles(
    curves: torch.Tensor, size: tuple[int, int], most: int
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rows that lie between the same two rows of the maps, at most so many: the maps there are lower + share *
    difference, with lower and difference [C, 1, W] and a share [rows, 1] for each row."""
    height, width = size
    last = curves.shape[1] - 1
    step = np.float32(curves.shape[1] / height)
    at = (step * (np.arange(height, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)).clip(0, last)
    rows = np.floor(at).astype(int)
    starts = [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist(), height]
    across = lru_cache(maxsize=2)(lambda row: _across(curves, min(row, last), width))
    for start, stop in pairwise(starts):
        row = int(rows[start])
        lower = across(row)
        difference = across(row + 1) - lower
        for top in range(start, stop, most):
            here = slice(top, min(top + most, stop))
            yield here, lower, difference, torch.from_numpy(at[here] - np.float32(row))[:, None]


def _across(curves: torch.Tensor, row: int, width: int) -> torch.Tensor:
    """One row of all maps at full width, [C, 1, W]."""
    return F.interpolate(curves[None, :, row : row + 1], size=(1, width), mode="bilinear", align_corners=False)[0]


def reduce_area(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Levels [H, W, 3] at `size`, float32: every new pixel is the mean of all that it touches.

    The adaptive average pooling by which published networks reduce pictures, in exact sums and without a float copy.
    """
    (tops, bottoms), (lefts, rights) = (_windows(n, new) for n, new in zip(picture.shape, size, strict=False))
    bands = np.stack([picture[top:end].sum(axis=0, dtype=np.uint32) for top, end in zip(tops, bottoms, strict=True)])
    sums = np.pad(bands.cumsum(axis=1, dtype=np.int64), ((0, 0), (1, 0), (0, 0)))
    counts = (bottoms - tops)[:, None, None] * (rights - lefts)[:, None]
    return ((sums[:, rights] - sums[:, lefts]) / counts).astype(np.float32)


def _windows(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last of the `old` pixels that each of the `new` ones touches."""
    at = np.arange(new)
    return at * old // new, -((at + 1) * old // -new)
