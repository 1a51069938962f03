"""Codes that a person fixes: positions, ranges of them, boxes of a picture, ids by hand, the codes of another answer.

Shapes: L code length, D depth, K vocabulary, H W pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cynosure.core.guided import GuidedModel
from cynosure.core.records import CodeSpec
from cynosure.errors import CynosureError, DataError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""
FREE = -1
"""In place of an id: the prior writes this one."""
_BOX = re.compile(r"(-?\d+),(-?\d+):(-?\d+),(-?\d+)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
REGION_HELP = "positions and ranges such as 0-3,8, or a box of the picture in pixels, x0,y0:x1,y1"


def spec_of(model: GuidedModel) -> CodeSpec:
    """What the model's codes look like. Raises CynosureError when it has none."""
    if model.tokenizer is None:
        raise CynosureError("this model has no tokenizer, hence no codes: train one whose recipe has model.tokenizer.")
    return model.tokenizer.spec


def check_codes(codes: Any, spec: CodeSpec) -> np.ndarray:
    """Codes that somebody gives, as int64 [L, D]; -1 is free, and D may be left out where it is 1.

    Raises CynosureError for another shape, and for ids that a position does not have.
    """
    ids = codes.detach().cpu().numpy() if torch.is_tensor(codes) else np.asarray(codes)
    wanted = (spec.length, spec.depth)
    if ids.dtype.kind not in "iu" or ids.shape not in {wanted, wanted[: 1 + (spec.depth > 1)]}:
        found = f"{ids.dtype} {list(ids.shape)}"
        raise CynosureError(f"codes of this model are integers of shape {list(wanted)}, not {found}")
    ids = ids.reshape(wanted).astype(np.int64)
    sizes = spec.limits().numpy()
    wrong = np.argwhere((ids < FREE) | (ids >= sizes))
    if len(wrong):
        position, level = wrong[0]
        raise CynosureError(
            f"position {position} has codes 0 to {sizes[position, level] - 1} (-1 leaves it to the prior), "
            f"not {ids[position, level]}"
        )
    return ids


def select(regions: Sequence[str], spec: CodeSpec, size: tuple[int, int] | None) -> np.ndarray:
    """The positions, bool [L], that regions of a picture of `size` (H, W) name: '0-3,8' or a box 'x0,y0:x1,y1'.

    Positions are counted from 0, row by row, ranges include their end. A box holds every position whose cell it
    touches; its right and lower edges are outside. Raises CynosureError for what is no region or lies outside.
    """
    chosen = np.zeros(spec.length, dtype=bool)
    for region in regions:
        if box := parse_box(region):
            chosen |= in_box(box, spec, size)
        else:
            for part in region.split(","):
                chosen[_range(part.strip(), spec)] = True
    return chosen


def in_box(box: Box, spec: CodeSpec, size: tuple[int, int] | None) -> np.ndarray:
    """The positions, bool [L], whose cells a box (left, top, right, bottom) of a picture of `size` (H, W) touches."""
    if spec.grid is None or size is None:
        raise CynosureError("the codes of this model lie on no picture: name positions such as 0-3,8 instead of a box")
    return touched(box_mask(box, size), spec)


def box_mask(box: Box, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a picture of `size` (H, W) in a box (left, top, right, bottom), bool [H, W].

    Its right and lower edges are outside. Raises DataError for a box that lies outside of the picture.
    """
    height, width = size
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    if left >= right or top >= bottom:
        named = f"{box[0]},{box[1]}:{box[2]},{box[3]}"
        raise DataError(f"the box {named} holds no pixel of the picture, which is {width}x{height}: x0,y0:x1,y1")
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def parse_box(text: str) -> Box | None:
    """'x0,y0:x1,y1' as (left, top, right, bottom); None for anything else."""
    match = _BOX.fullmatch(text.replace(" ", ""))
    if match is None:
        return None
    left, top, right, bottom = map(int, match.groups())
    return left, top, right, bottom


def touched(mask: np.ndarray, spec: CodeSpec) -> np.ndarray:
    """The positions, bool [L], whose cells hold a pixel of a mask bool [H, W]; none of a segment without a grid."""
    found = []
    for segment, grid in zip(spec.segments, grids(spec), strict=True):
        found.append(np.zeros(segment.length, dtype=bool) if grid is None else touched_cells(mask, grid).ravel())
    return np.concatenate(found)


def touched_cells(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The cells of a grid (rows, columns) over a mask bool [H, W] that hold any of its pixels, bool [rows, columns]."""
    (rows, columns), (height, width) = grid, mask.shape
    bands = np.stack([mask[start:stop].any(axis=0) for start, stop in _spans(rows, height)])
    return np.stack([bands[:, start:stop].any(axis=1) for start, stop in _spans(columns, width)], axis=1)


def _spans(cells: int, pixels: int) -> list[tuple[int, int]]:
    """Which pixels each of so many equal cells touches."""
    return [(i * pixels // cells, -(-(i + 1) * pixels // cells)) for i in range(cells)]


def grids(spec: CodeSpec) -> list[tuple[int, int] | None]:
    """Rows and columns of every segment on the picture: the code's own grid where it fits, else square, else None."""
    return [None if spec.grid is None else _grid(segment.length, spec.grid) for segment in spec.segments]


def _grid(length: int, grid: tuple[int, int]) -> tuple[int, int] | None:
    side = isqrt(length)
    return grid if length == grid[0] * grid[1] else (side, side) if length == side * side else None


def _range(text: str, spec: CodeSpec) -> slice:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise CynosureError(f"'{text}' is no region: write {REGION_HELP}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last >= spec.length:
        raise CynosureError(f"this model has positions 0 to {spec.length - 1}, not {text}")
    return slice(first, last + 1)


def fix(
    ids: np.ndarray,
    spec: CodeSpec,
    size: tuple[int, int] | None = None,
    keep: Sequence[str] = (),
    resample: Sequence[str] = (),
    replace: Sequence[str] = (),
) -> np.ndarray:
    """Codes int64 [L, D] in which the prior is free to write what is not kept (-1).

    `keep` names the regions (see `select`) that stay as in `ids`, or else `resample` those that do not; without either
    all stay. `replace` sets single codes, 'position=id' (ids of all levels, with commas, where D > 1).
    """
    if keep and resample:
        raise CynosureError("give the codes to keep or those to resample, not both: the others are known then")
    kept = select(keep, spec, size) if keep else ~select(resample, spec, size)
    known = np.where(kept[:, None], ids, FREE)
    for text in replace:
        position, _, value = text.partition("=")
        if not re.fullmatch(r"\d+", position.strip()) or not re.fullmatch(r"\d+(,\d+)*", value.strip()):
            raise CynosureError(f"'{text}' sets no code: write position=id, such as 5=17")
        codes = [int(each) for each in value.split(",")]
        if len(codes) != spec.depth:
            raise CynosureError(f"'{text}' gives {len(codes)} codes, but a position has {spec.depth}")
        known[_range(position.strip(), spec)] = codes
    return check_codes(known, spec)


def read_codes(file: Path, spec: CodeSpec) -> np.ndarray:
    """The codes int64 [L, D] that `cynosure codes` wrote to a file. Raises DataError for any other file."""
    try:
        ids = json.loads(file.read_text(encoding="utf-8"))["ids"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it has no 'ids'"
        raise DataError(f"{file} holds no codes ({reason}): give a file that `cynosure codes` wrote") from None
    try:
        return check_codes(ids, spec)
    except (CynosureError, ValueError) as error:
        raise DataError(f"the codes in {file} do not fit: {error}") from None
