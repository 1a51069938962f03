"""Sizes: how pictures and label maps are brought to the fixed size that rows are kept at."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

Side = Annotated[int, Field(ge=1, le=16384)]
Size = Side | tuple[Side, Side]
"""One number for a square, or [H, W]."""


def height_width(size: Size) -> tuple[int, int]:
    """(H, W) pixels of a size option."""
    return (size, size) if isinstance(size, int) else size


def centre_box(shape: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest centred part of an (H, W) picture that has the aspect of `size`."""
    height, width = shape
    scale = min(height / size[0], width / size[1])
    crop_height, crop_width = size[0] * scale, size[1] * scale
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def resize_image(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [*size, 3], antialiased bicubic; `box` is the part that is kept."""
    if image.shape[:2] == size and box in (None, (0, 0, size[1], size[0])):
        return image
    resample = Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), resample, box=box, reducing_gap=3.0))


def resize_nearest(
    values: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """[H, W, ...] of labels or depths -> [*size, ...], each taken from the pixel under its centre: nothing is mixed."""
    height, width = values.shape[:2]
    left, top, right, bottom = box or (0, 0, width, height)
    ys = (top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int).clip(0, height - 1)
    xs = (left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int).clip(0, width - 1)
    return values[ys[:, None], xs[None, :]]
