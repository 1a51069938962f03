"""Panoptic answers as the programs of others read them, and back.

Answers are classes and numbers, int [H, W]: class ids 1, 2, ..., 0 is void. `category_ids` are the dataset's own ids of
the classes; files hold these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cynosure.data import files
from cynosure.data.pictures import load_picture
from cynosure.errors import DataError

Pair = tuple[np.ndarray, np.ndarray]


def write_two_channel(path: Path, classes: np.ndarray, numbers: np.ndarray, category_ids: Sequence[int]) -> Path:
    """An 8-bit PNG of (category, number, 0), (0, 0, 0) where void: what panopticapi's two-channel converter takes.

    Raises DataError for categories and numbers beyond 255.
    """
    categories = np.array([0, *category_ids])[classes]
    if max(categories.max(), numbers.max()) > 255:
        raise DataError(f"{path.name}: categories and numbers beyond 255 need the other format; set `format: rgb`")
    channels = np.stack([categories, np.where(classes > 0, numbers, 0), np.zeros_like(classes)], axis=-1)
    return files.write_png(path, channels.astype(np.uint8))


def read_two_channel(path: Path, category_ids: Sequence[int]) -> Pair:
    """(classes, numbers) of a PNG as `write_two_channel` makes it; DataError where a category is unknown."""
    pixels = load_picture(path).image.astype(np.int32)
    return _classes(pixels[..., 0], category_ids, path), pixels[..., 1]


def read_rgb(path: Path, segments: Sequence[Mapping[str, Any]], category_ids: Sequence[int]) -> Pair:
    """(classes, numbers) of a PNG of segment ids R + 256 G + 65536 B; `segments` is its `segments_info` in the JSON, in
    which every id but 0 must be, or DataError. A segment's number is its position in the list, from 1."""
    ids = files.rgb_to_ids(load_picture(path).image)
    known = {0: (0, 0)} | {s["id"]: (s["category_id"], number) for number, s in enumerate(segments, start=1)}
    found, where = np.unique(ids, return_inverse=True)
    if lost := [int(i) for i in found if int(i) not in known]:
        raise DataError(f"'{path}' has the segment {lost[0]}, which its JSON does not list; they must be of one answer")
    pairs = np.array([known[int(i)] for i in found])[where.reshape(ids.shape)]
    return _classes(pairs[..., 0], category_ids, path), pairs[..., 1]


def _classes(categories: np.ndarray, category_ids: Sequence[int], path: Path) -> np.ndarray:
    classes = {0: 0} | {category: label for label, category in enumerate(category_ids, start=1)}
    found, where = np.unique(categories, return_inverse=True)
    if lost := [int(c) for c in found if int(c) not in classes]:
        raise DataError(f"'{path}' has the category {lost[0]}, which is not among the dataset's")
    return np.array([classes[int(c)] for c in found])[where.reshape(categories.shape)]
