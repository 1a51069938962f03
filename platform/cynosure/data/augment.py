"""Geometry that an image and its label map go through together, as UViM defines it, in numpy.

Images are uint8 [H, W, 3], label maps [H, W] or [H, W, C] of any dtype; sizes are (H, W) in pixels.
Source: UViM (Kolesnikov et al. 2022), whose input pipeline flips, takes an inception crop, resizes to a square
(bilinear without anti-aliasing for images, nearest for labels) and scales images by x / 127.5 - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from PIL import Image

from cynosure.errors import DataError

Augment = Literal["none", "flip", "inception"]
"""'flip' mirrors half of the training examples; 'inception' also crops 5 to 100 % of the area, aspect 3/4 to 4/3."""
AREA, ASPECT = (0.05, 1.0), (0.75, 1.33)
"""Of a crop: its share of the picture, and its width over its height."""
Box = tuple[float, float, float, float]
"""(left, top, right, bottom) of a part of a picture, in pixels; fractions are meant."""
Resize = Literal["antialias", "uvim"]
"""'antialias' averages over what a pixel covers, so that big photographs keep their look; 'uvim' is what UViM's
pipeline does: bilinear between four neighbours, cut to whole grey levels, and smaller crops (`uvim_box`)."""

_LEVELS = np.arange(256, dtype=np.float32) / 127.5 - 1
_LUMA = np.array([0.2989, 0.5870, 0.1140], dtype=np.float32)


def row_name(row: Mapping[str, Any]) -> str:
    """How errors call a row: by its 'key' where it has one."""
    return f"row {row['key']}" if "key" in row else "a row"


def row_image(row: Mapping[str, Any], name: str = "image", bits: Literal[8, 16] = 8) -> np.ndarray:
    """The uint8 [H, W, 3] picture in column `name`, which with `bits=16` may also be uint16; DataError says which row
    holds something else."""
    image = np.asarray(row[name])
    known = image.dtype == np.uint8 or (bits == 16 and image.dtype == np.uint16)
    if not known or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        found = f"{image.dtype} {list(image.shape)}"
        raise DataError(f"{row_name(row)}: {name} must be uint8 [H, W, 3], not {found}; convert it to RGB")
    return image


def view(
    image: np.ndarray,
    labels: np.ndarray | None,
    size: tuple[int, int],
    rng: np.random.Generator,
    augment: Augment = "none",
    resize: Resize = "antialias",
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image and its labels at `size`, flipped and cropped alike. Views into the arguments where nothing changes.

    DataError when the labels are not of the image's height and width.
    """
    if labels is not None and labels.shape[:2] != image.shape[:2]:
        raise DataError(
            f"labels of {list(labels.shape[:2])} pixels do not fit an image of {list(image.shape[:2])}; "
            "store both at the same height and width"
        )
    crop = uvim_box if resize == "uvim" else inception_box
    box = crop(image.shape[:2], rng) if augment == "inception" else None
    flip = augment != "none" and rng.random() < 0.5
    image = resize_image(_cut(image, box, flip), size, resize)
    return image, None if labels is None else resize_nearest(_cut(labels, box, flip), size)


def _cut(array: np.ndarray, box: tuple[slice, slice] | None, flip: bool) -> np.ndarray:
    array = array[:, ::-1] if flip else array
    return array if box is None else array[box]


def inception_box(
    size: tuple[int, int],
    rng: np.random.Generator,
    area: tuple[float, float] = AREA,
    aspect: tuple[float, float] = ASPECT,
) -> tuple[slice, slice]:
    """A random crop (rows, columns): `area` is its share of the picture, `aspect` its width over its height.

    The whole picture where ten draws find no crop that fits.
    """
    height, width = size
    for _ in range(10):
        pixels, ratio = height * width * rng.uniform(*area), rng.uniform(*aspect)
        rows, columns = round((pixels / ratio) ** 0.5), round((pixels * ratio) ** 0.5)
        if 0 < rows <= height and 0 < columns <= width:
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            return slice(top, top + rows), slice(left, left + columns)
    return slice(0, height), slice(0, width)


def uvim_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    """The same as TensorFlow's `sample_distorted_bounding_box` draws it, which UViM crops with.

    It draws the crop's height, not its area, among those that fit: of 480 x 640 pixels crops keep a third on average,
    those of `inception_box` more than two fifths. The whole picture where a hundred draws find none.
    """
    height, width = size
    least, most = (share * height * width for share in AREA)
    for _ in range(100):
        ratio = rng.uniform(*ASPECT)
        tallest = min(round((most / ratio) ** 0.5), int((width + 0.5) / ratio), height)
        lowest = min(round((least / ratio) ** 0.5), tallest)
        rows = int(rng.integers(lowest, tallest + 1))
        columns = round(rows * ratio)
        if 0 < columns <= width and 0 < rows and least <= rows * columns <= most:
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            return slice(top, top + rows), slice(left, left + columns)
    return slice(0, height), slice(0, width)


def resize_image(
    image: np.ndarray, size: tuple[int, int], method: Resize = "antialias", box: Box | None = None
) -> np.ndarray:
    """A uint8 image [H, W, 3] at `size`; `box` is the part of it that is kept, with 'antialias' only."""
    if image.shape[:2] == size and box in (None, (0, 0, size[1], size[0])):
        return image
    if method == "uvim":
        return resize_linear(image, size).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box, reducing_gap=4.0))


def resize_linear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values [H, W] or [H, W, C] at `size`, float32, between the four nearest pixel centres (no anti-aliasing)."""
    values = values.astype(np.float32)
    for axis, n in enumerate(size):
        at = ((np.arange(n, dtype=np.float32) + 0.5) * np.float32(values.shape[axis] / n)) - np.float32(0.5)
        low = np.floor(at)
        last = values.shape[axis] - 1
        lower = values.take(np.clip(low, 0, last).astype(int), axis)
        upper = values.take(np.clip(low + 1, 0, last).astype(int), axis)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        values = lower + (upper - lower) * share
    return values


def resize_area(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values [H, W] or [H, W, C] at `size`, float64: each new pixel is the mean of what it covers, by share of area."""
    for axis, n in enumerate(size):
        values = np.moveaxis(np.tensordot(_shares(values.shape[axis], n), values, axes=(1, axis)), 0, axis)
    return values


@lru_cache(maxsize=16)
def _shares(old: int, new: int) -> np.ndarray:
    """[new, old]: how much of each new pixel lies on each old one; rows sum to 1."""
    starts, width = np.arange(new)[:, None] * (old / new), old / new
    pixels = np.arange(old)
    return np.maximum(np.minimum(starts + width, pixels + 1) - np.maximum(starts, pixels), 0) / width


def centre_square(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """The largest centred square of a uint8 image [H, W, 3] at `size` (area-averaged, rounded)."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    size = (size, size) if isinstance(size, int) else size
    return np.rint(resize_area(image[top : top + side, left : left + side], size)).astype(np.uint8)


def resize_nearest(labels: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """Labels [H, W, ...], or their part in `box`, at `size`, each from index floor((i + 0.5) * old / new)."""
    height, width = labels.shape[:2]
    left, top, right, bottom = box or (0, 0, width, height)
    if (height, width) == size and (left, top, right, bottom) == (0, 0, width, height):
        return labels
    rows = (top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int).clip(0, height - 1)
    columns = (left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int).clip(0, width - 1)
    return labels[rows[:, None], columns]


def to_model(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [3, H, W] in [-1, 1], which is what models take."""
    return _LEVELS.take(image.transpose(2, 0, 1))


def to_pixels(image: np.ndarray) -> np.ndarray:
    """float [3, H, W] in [-1, 1] -> uint8 [H, W, 3], inverse to `to_model`; values outside are clipped, NaN is 0."""
    return np.nan_to_num(np.clip(np.rint((image.transpose(1, 2, 0) + 1) * 127.5), 0, 255), nan=0).astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """Grey level float32 [H, W] of an RGB image [H, W, 3], in the image's own units."""
    return image.astype(np.float32) @ _LUMA


def grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> its grey version uint8 [H, W], requantised as UViM does: floor(luma / 255 * 255.5)."""
    return (luma(image) * np.float32(255.5 / 255)).astype(np.uint8)
