"""Pictures of any size and the small maps that change them: reduced for the model, changed a few rows at a time.

Shapes: B batch, C maps, 3 for every step of a change; H W pixels of the picture, h w rows and columns of the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F

ROWS = 16
"""Rows of a tile at most; with three channels of a wide picture they still fit into a core's cache."""
SPARSE = 6
"""Rows of a picture to a row of the maps from which on tiles end where the maps' rows do."""
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
    buffers = torch.empty(2, 3 * rows * width)
    for here, wide, weights in _tiles(maps, (height, width), rows):
        v, three = (buffer[: 3 * len(weights) * width].view(3, len(weights), width) for buffer in buffers)
        v.copy_(torch.from_numpy(picture[here].astype(np.float32)).permute(2, 0, 1)).mul_(1 / most)
        changed = change(v[None], _threes(wide, weights, three), True).clamp_(0, 1).mul_(most)
        if picture.dtype.kind == "u":
            changed.round_()
        result[here] = changed[0].permute(1, 2, 0).numpy()
    return result


def _threes(wide: Sequence[torch.Tensor], weights: torch.Tensor, out: torch.Tensor) -> Iterator[torch.Tensor]:
    """Maps of a tile, three after three in `out` [3, rows, W], as [1, 3, rows, W]."""
    if len(wide) == 2:  # one pass, where a product so narrow takes several
        lower, upper = wide
        for start, slope in zip(lower.split(3), (upper - lower).split(3), strict=True):
            yield torch.addcmul(start, weights[:, 1:], slope, out=out)[None]
    else:
        for three in torch.cat([*wide], dim=1).split(3):
            yield torch.bmm(weights.expand(3, -1, -1), three, out=out)[None]


def _tiles(
    maps: torch.Tensor, size: tuple[int, int], rows: int
) -> Iterator[tuple[slice, Sequence[torch.Tensor], torch.Tensor]]:
    """Tiles of so many rows at most, with the k rows of the maps around each at full width, k times [C, 1, W], and how
    much of them each row of the tile has, [rows, k]."""
    height, width = size
    step = np.float32(maps.shape[1] / height)
    at = (step * (np.arange(height, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)).clip(0, maps.shape[1] - 1)
    wide: dict[int, torch.Tensor] = {}
    for top, bottom in pairwise(_edges(at, rows)):
        here = slice(top, bottom)
        needed = range(int(at[top]), min(int(at[bottom - 1]) + 2, maps.shape[1]))
        fresh = [row for row in needed if row not in wide]
        wide = {row: wide[row] for row in needed if row in wide}
        if fresh:
            wide |= zip(fresh, _across(maps[:, fresh[0] : fresh[-1] + 1], width).split(1, dim=1), strict=True)
        distance = at[here][:, None] - np.array(needed, dtype=np.float32)
        yield here, [*wide.values()], torch.from_numpy((1 - np.abs(distance)).clip(0, None))


def _edges(at: np.ndarray, rows: int) -> list[int]:
    """Where tiles begin, and the end; of pictures much finer than the maps no tile lies across a row of these."""
    pairs = np.floor(at)
    starts = [0, *(np.flatnonzero(np.diff(pairs)) + 1).tolist(), len(at)]
    if len(at) < SPARSE * len(starts):
        starts = [0, len(at)]
    return [*(top for start, stop in pairwise(starts) for top in range(start, stop, rows)), len(at)]


def _across(maps: torch.Tensor, width: int) -> torch.Tensor:
    """Maps [C, k, w] at full width, [C, k, W]."""
    lines = F.interpolate(maps.flatten(0, 1)[None], size=width, mode="linear", align_corners=False)[0]
    return lines.unflatten(0, maps.shape[:2])


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
