"""Pictures of any size and the small maps that change them: reduced for the model, changed a few rows at a time.

Shapes: B batch, C maps, 3 for every step of a change; H W pixels of the picture, h w rows and columns of the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F

ROWS = 16
"""Rows of a tile at most; with three channels of a wide picture they still fit into a core's cache."""
LEVELS = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
Change = Callable[[torch.Tensor, Iterable[torch.Tensor], bool], torch.Tensor]
"""How maps change a picture, every pixel on its own: (picture [B, 3, H, W] in [0, 1], maps, in place) -> [B, 3, H, W],
which may leave [0, 1]. Maps come by threes, each [B, 3, H, W] and good until the next is asked for. In place, where
nothing wants gradients, the picture given may be overwritten."""


def change_whole(picture: torch.Tensor, maps: torch.Tensor, change: Change) -> torch.Tensor:
    """Picture [B, 3, H, W] in [0, 1] and maps [B, C, h, w] of any size -> changed picture [B, 3, H, W] in [0, 1].

    Maps are resized bilinearly (half-pixel centres), three at a time; those of the picture's size too, which changes
    nothing but keeps both sizes open in exported graphs.
    """
    size = picture.shape[2:]
    threes = (F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps.split(3, dim=1))
    return change(picture, threes, False).clamp(0, 1)


@torch.inference_mode()
def change_tiled(picture: np.ndarray, maps: torch.Tensor, change: Change, rows: int = ROWS) -> np.ndarray:
    """A picture [H, W, 3] of any size, uint8, uint16 or float32 in [0, 1], changed by maps [C, h, w]; of the same type.

    Maps are resized for one tile of rows at a time, never as a whole: memory for the answer and little else. The same
    as `change_whole`, up to rounding.
    """
    height, width = picture.shape[:2]
    result = np.empty_like(picture)
    most = LEVELS[picture.dtype]
    buffers = torch.empty(2, 1, 3, rows, width)
    for here, lower, difference, shares in _tiles(maps, (height, width), rows):
        v, three = buffers[:, :, :, : len(shares)]
        v[0].copy_(torch.from_numpy(picture[here].astype(np.float32)).permute(2, 0, 1)).mul_(1 / most)
        steps = zip(lower.split(3), difference.split(3), strict=True)
        threes = (torch.addcmul(start, shares, slope, out=three[0])[None] for start, slope in steps)
        changed = change(v, threes, True).clamp_(0, 1).mul_(most)
        if picture.dtype.kind == "u":
            changed.round_()
        result[here] = changed[0].permute(1, 2, 0).numpy()
    return result


def _tiles(
    maps: torch.Tensor, size: tuple[int, int], most: int
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rows that lie between the same two rows of the maps, at most so many: the maps there are lower + share *
    difference, with lower and difference [C, 1, W] and a share [rows, 1] for each row."""
    height, width = size
    last = maps.shape[1] - 1
    step = np.float32(maps.shape[1] / height)
    at = (step * (np.arange(height, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)).clip(0, last)
    rows = np.floor(at).astype(int)
    starts = [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist(), height]
    across = lru_cache(maxsize=2)(lambda row: _across(maps, min(row, last), width))
    for start, stop in pairwise(starts):
        row = int(rows[start])
        lower = across(row)
        difference = across(row + 1) - lower
        for top in range(start, stop, most):
            here = slice(top, min(top + most, stop))
            yield here, lower, difference, torch.from_numpy(at[here] - np.float32(row))[:, None]


def _across(maps: torch.Tensor, row: int, width: int) -> torch.Tensor:
    """One row of all maps at full width, [C, 1, W]."""
    return F.interpolate(maps[None, :, row : row + 1], size=(1, width), mode="bilinear", align_corners=False)[0]


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
