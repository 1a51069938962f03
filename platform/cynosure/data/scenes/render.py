"""Scenes as arrays: images, panoptic maps, depth, low light, captions and lists of objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cynosure.data.scenes.captions import describe, list_objects
from cynosure.data.scenes.draws import Draws
from cynosure.data.scenes.layout import SHAPES, Layout, sample_layout
from cynosure.data.scenes.shading import shade
from cynosure.data.scenes.trace import GROUND, SKY, Surface, meet, nearest, surfaces
from cynosure.data.scenes.view import View, center_rays, make_view, sample_rays, without
from cynosure.errors import DataError

CLASSES: tuple[tuple[str, bool], ...] = (("sky", False), ("ground", False), *((shape, True) for shape in SHAPES))
"""(name, is a thing) of panoptic classes 1 to 6; class 0 is void, which scenes never use."""
SMALLEST_SIDE = 16
MIN_VISIBLE = 12 / 64**2
"""The share of the image below which an object does not count, and is taken out of the scene: 12 pixels at 64 x 64."""

_F = np.float32
_ROTATED_GRID = np.array([[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]], _F)
_NOISE_STREAM = 2
_PIXELS_AT_ONCE = 16 * 64 * 64


def _visible(view: View, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(area, column), both [B, K]: the pixels that show each object, and their mean column from 0 to 1 (else 2)."""
    batch, slots = view.layout.present.shape
    pixel = np.flatnonzero(owner > GROUND)
    scene = pixel // (view.height * view.width)
    key = scene * slots + owner[pixel] - 1
    area = np.bincount(key, minlength=batch * slots)
    total = np.bincount(key, pixel % view.width + 0.5, minlength=batch * slots)
    column = np.where(area, total / np.maximum(area, 1) / view.width, 2)
    return area.reshape(batch, slots), column.reshape(batch, slots)


def _edges(view: View, surface: Surface) -> np.ndarray:
    """bool[B·H·W]: pixels beside a change of object, face or shadow."""
    key = (surface.owner + 1) * np.int8(8) + surface.face * np.int8(2) + surface.shadow
    key = key.reshape(-1, view.height, view.width)
    edge = np.zeros(key.shape, bool)
    down, right = key[:, 1:] != key[:, :-1], key[:, :, 1:] != key[:, :, :-1]
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    edge[:, :, 1:] |= right
    edge[:, :, :-1] |= right
    return edge.ravel()


def _trace(layout: Layout, height: int, width: int) -> tuple[View, Surface, np.ndarray]:
    """(the view without objects too small to count, the surface at pixel centres, rgb uint8[B, H, W, 3])."""
    view = make_view(layout, height, width)
    rays = center_rays(view)
    pairs = meet(view, rays)
    depth, owner = nearest(view, rays, pairs)
    gone = view.layout.present & (_visible(view, owner)[0] < MIN_VISIBLE * height * width)
    if gone.any():
        view = without(view, gone)
        depth, owner = nearest(view, rays, pairs)
    surface = surfaces(view, rays, depth, owner)
    rgb = shade(view, rays, surface)

    edge = _edges(view, surface)
    samples = len(_ROTATED_GRID)
    rays = sample_rays(view, np.flatnonzero(edge), _ROTATED_GRID)
    fine = shade(view, rays, surfaces(view, rays, *nearest(view, rays, meet(view, rays, edge, samples))))
    rgb[:, edge] = sum(fine[:, sample::samples] for sample in range(samples)) * _F(1 / samples)
    image = np.empty((layout.batch, height, width, 3), np.uint8)
    image.reshape(-1, 3).T[...] = rgb * _F(255) + _F(0.5)
    return view, surface, image


def _low_light(seed: int, indices: np.ndarray, image: np.ndarray) -> np.ndarray:
    """uint8[B, H, W, 3]: the image underexposed, tinted, and with shot and read noise of a short exposure.

    Pixels have 256 values, so exposure and noise level are looked up instead of computed.
    """
    draws = Draws(seed, indices, _NOISE_STREAM)
    gain = draws.uniform(0.12, 0.30, 1, 1) * draws.uniform(0.75, 1.10, 3, 1)
    level = np.linspace(0, 1, 256, dtype=_F) ** draws.uniform(1.1, 1.5, 1, 1) * gain
    levels = np.arange(len(image) * 3).reshape(-1, 1, 3) * 256 + image.reshape(len(image), -1, 3)
    noise = draws.normal(image[0].size).reshape(levels.shape)
    noise *= (_F(255 * 0.012) + _F(255 * 0.05) * np.sqrt(level)).ravel()[levels]
    noise += (level * _F(255) + _F(0.5)).ravel()[levels]
    return np.clip(noise, 0, 255, out=noise).astype(np.uint8).reshape(image.shape)


def _panoptic(view: View, owner: np.ndarray, number: np.ndarray) -> np.ndarray:
    """int16[B, H, W, 2]: (class, instance), stuff with instance 0."""
    batch, slots = number.shape
    table = np.zeros((batch, slots + 2, 2), np.int16)
    table[:, 0, 0], table[:, 1, 0] = 1, 2
    table[:, 2:, 0] = view.layout.shape + 3
    table[:, 2:, 1] = number
    row = owner.reshape(batch, -1) + np.arange(1, batch * (slots + 2), slots + 2)[:, None]
    # One 4-byte gather for the two numbers of a pixel.
    pairs = table.view(np.int32).ravel().take(row)
    return pairs.view(np.int16).reshape(batch, view.height, view.width, 2)


def _render_chunk(seed: int, indices: np.ndarray, height: int, width: int) -> dict[str, Any]:
    view, surface, image = _trace(sample_layout(seed, indices), height, width)
    area, column = _visible(view, surface.owner)
    # Objects of equal mean column keep their order of placement.
    rank = np.argsort(np.argsort(column, axis=1, kind="stable"), axis=1)
    number = np.where(view.layout.present, rank + 1, 0)
    depth = np.where(surface.owner == SKY, _F(0), surface.depth)
    return {
        "image": image,
        "panoptic": _panoptic(view, surface.owner, number),
        "depth": depth.reshape(image.shape[:3]),
        "degraded": _low_light(seed, indices, image),
        "caption": describe(seed, indices, view.layout, number, column),
        "objects": list_objects(view.layout, number, area),
    }


def image_size(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of `size`, which is one side of a square or (height, width).

    Raises:
        DataError: a side is shorter than 16 pixels.
    """
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    if min(height, width) < SMALLEST_SIDE:
        raise DataError(f"scenes need sides of at least {SMALLEST_SIDE} pixels: ask for a size above {size}")
    return height, width


def render_layout(layout: Layout, size: int | Sequence[int]) -> np.ndarray:
    """Pictures uint8[B, H, W, 3] of the scenes of a layout, at `size` pixels: a side, or (height, width).

    Raises:
        DataError: a side is shorter than 16 pixels.
    """
    return _trace(layout, *image_size(size))[2]


def render_scenes(seed: int, indices: np.ndarray, size: int | Sequence[int]) -> dict[str, Any]:
    """The scenes `indices` (int[B], one or more, not negative) of `seed`, at `size` pixels: a side, or (height, width).

    A scene is a pure function of (seed, index): the same bits in any batch. Returns
        image       uint8[B, H, W, 3]
        panoptic    int16[B, H, W, 2], (class, instance): classes number `CLASSES` from 1; sky and ground have
                    instance 0, objects 1..n from left to right by the mean column of their visible pixels
        depth       float32[B, H, W], metres along the optical axis; 0 where there is none, which is the sky
        degraded   uint8[B, H, W, 3], the image as a short, noisy exposure
        caption     B strings
        objects     B lists of dicts, one an object from left to right, see `captions.list_objects`

    The ground ends at 16 m, where it has dissolved into the sky: beyond it, class, depth and colour all say sky.
    Objects that would show fewer than `MIN_VISIBLE` of the pixels are taken out of the scene before it is shaded,
    shadow and all, so that every map agrees and no pixel is void.

    Raises:
        DataError: a side is shorter than 16 pixels, an index is negative, or there is none.
    """
    height, width = image_size(size)
    indices = np.atleast_1d(np.asarray(indices, np.int64))
    if not len(indices) or indices.min() < 0:
        raise DataError("there is no such scene: ask for one index or more, none of them negative")
    step = max(1, _PIXELS_AT_ONCE // (height * width))
    starts = range(0, len(indices), step)
    chunks = [_render_chunk(seed, indices[start : start + step], height, width) for start in starts]
    if len(chunks) == 1:
        return chunks[0]
    joined: dict[str, Any] = {}
    for name, part in chunks[0].items():
        parts = [chunk[name] for chunk in chunks]
        joined[name] = np.concatenate(parts) if isinstance(part, np.ndarray) else [item for p in parts for item in p]
    return joined
