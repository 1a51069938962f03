"""Sizes: how pictures and label maps are brought to the fixed size that rows are kept at."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cynosure.data.augment import Box

Side = Annotated[int, Field(ge=1, le=16384)]
Size = Side | tuple[Side, Side]
"""One number for a square, or [H, W]."""


def height_width(size: Size) -> tuple[int, int]:
    """(H, W) pixels of a size option."""
    return (size, size) if isinstance(size, int) else size


def centre_box(shape: tuple[int, int], size: tuple[int, int]) -> Box:
    """(left, top, right, bottom) of the largest centred part of an (H, W) picture that has the aspect of `size`."""
    height, width = shape
    scale = min(height / size[0], width / size[1])
    crop_height, crop_width = size[0] * scale, size[1] * scale
    left, top = max(0.0, (width - crop_width) / 2), max(0.0, (height - crop_height) / 2)  # rounding goes below 0
    return left, top, min(left + crop_width, width), min(top + crop_height, height)
