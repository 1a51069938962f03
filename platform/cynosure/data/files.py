"""Pictures out of arrays: PNG files and colours for classes, instances and depth."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VOID = (24, 24, 28)
"""The colour of pixels that have no answer."""

CLASSES = 256
"""Of a map whose classes are not known; any more share colours."""

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

# A rainbow of even steps, near-black blue to deep red; interpolated into a table of 256 colours.
_SPECTRUM = np.array(
    [
        (48, 18, 90), (62, 90, 220), (40, 170, 235), (40, 220, 160),
        (160, 250, 60), (250, 190, 50), (240, 95, 25), (150, 15, 10),
    ]
)  # fmt: skip


def png_path(path: Path) -> Path:
    """`path` with the ending .png, in place of another picture's ending or after a name that has none."""
    return path.with_suffix(".png") if path.suffix.lower() in _PICTURES else path.with_name(path.name + ".png")


def write_png(path: Path, image: np.ndarray) -> Path:
    """Write uint8 or uint16 [H, W], [H, W, 3] or [H, W, 4] (RGBA) to `png_path(path)`; folders are made."""
    path = png_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.ascontiguousarray(image)
    if image.dtype == np.uint16 and image.ndim == 3:  # Pillow writes 16 bits in grey only
        import imagecodecs

        path.write_bytes(imagecodecs.png_encode(image))
    else:
        Image.fromarray(image).save(path)
    return path


def write_rgb(path: Path, rgb: np.ndarray, alpha: np.ndarray | None) -> Path:
    """Write a picture uint8 or uint16 [H, W, 3], transparent by an alpha [H, W] of its type, if there is one."""
    return write_png(path, rgb if alpha is None else np.dstack([rgb, alpha]))


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Segment ids [H, W] below 256**3 -> uint8 [H, W, 3] with id = R + 256 G + 256**2 B, as COCO panoptic has them."""
    return np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)


def rgb_to_ids(colours: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> segment ids int32 [H, W], inverse to `ids_to_rgb`."""
    colours = colours.astype(np.int32)
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def write_coco_panoptic(
    path: Path,
    ids: np.ndarray,
    labels: Sequence[int],
    classes: Sequence[tuple[str, bool]],
    category_ids: Sequence[int] = (),
) -> list[Path]:
    """COCO panoptic format: path.png with the segment ids [H, W] from 1 (0 is void), path.json with what they are.

    `labels` holds the class id of every segment, `classes` the (name, is thing) of class ids 1, 2, ...; `category_ids`
    are the dataset's own ids of those classes, the class ids where empty. The JSON is a whole COCO panoptic document,
    of this one picture.
    """
    png = write_png(path, ids_to_rgb(ids))
    description = png.with_suffix(".json")
    document = {
        "images": [{"id": 0, "file_name": png.name, "height": ids.shape[0], "width": ids.shape[1]}],
        "annotations": [
            {"image_id": 0, "file_name": png.name, "segments_info": coco_segments(ids, labels, category_ids)}
        ],
        "categories": coco_categories(classes, category_ids),
    }
    description.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return [png, description]


def coco_segments(ids: np.ndarray, labels: Sequence[int], category_ids: Sequence[int] = ()) -> list[dict[str, Any]]:
    """COCO's `segments_info` of segment ids int [H, W] from 1 on with the class ids `labels`; boxes are x, y, width,
    height in pixels."""
    infos = []
    for segment, label in enumerate(labels, start=1):
        mask = ids == segment
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
        infos.append(
            {
                "id": segment,
                "category_id": int(category_ids[label - 1] if category_ids else label),
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": [int(v) for v in box],
            }
        )
    return infos


def coco_categories(classes: Sequence[tuple[str, bool]], category_ids: Sequence[int] = ()) -> list[dict[str, Any]]:
    """COCO's `categories` of class ids 1, 2, ..."""
    return [
        {"id": int(category_ids[i] if category_ids else i + 1), "name": name, "isthing": int(thing)}
        for i, (name, thing) in enumerate(classes)
    ]


@lru_cache(maxsize=16)
def palette(n: int, vivid: bool) -> np.ndarray:
    """`n` colours uint8 [n, 3] that differ: strong ones for things, soft ones for stuff."""
    rows = []
    for i in range(n):
        hue = (0.02 if vivid else 0.94) + 0.61803398875 * i  # golden ratio: the next hue is always far from the last
        saturation, value = (0.85 - 0.2 * (i % 2), 1 - 0.22 * (i // 2 % 2)) if vivid else (0.3, 0.9 - 0.13 * (i % 3))
        rows.append(colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return np.rint(np.array(rows).reshape(n, 3) * 255).astype(np.uint8)


def outline(image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`image` uint8 [H, W, 3] with the first pixel of every new segment, left to right and down, half as bright."""
    edge = np.zeros(ids.shape, dtype=bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    return np.where(edge[..., None], image // 2, image)


@lru_cache(maxsize=1)
def _spectrum() -> np.ndarray:
    steps = np.linspace(0, 1, len(_SPECTRUM))
    at = np.linspace(0, 1, 256)
    return np.stack([np.interp(at, steps, channel) for channel in _SPECTRUM.T], axis=-1).astype(np.uint8)


def depth_to_rgb(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Depth [H, W] in metres -> uint8 [H, W, 3]: warm is near, blue is far (log scale), nearly black is missing."""
    missing = ~(depth > 0)
    closeness = np.log(far / np.where(missing, far, depth)) / np.log(far / near)
    colors = _spectrum()[np.clip(closeness * 255, 0, 255).astype(int)]
    colors[missing] = VOID
    return colors


def map_to_rgb(values: np.ndarray, classes: bool) -> np.ndarray:
    """A map as it was given -> uint8 [H, W, 3]: class numbers [H, W, ...] in colours, or other numbers [H, W] in grey,
    the largest white."""
    values = values.reshape(*values.shape[:2], -1)[..., 0]
    if classes:
        return palette(CLASSES, vivid=False)[values.astype(np.int64) % CLASSES]
    numbers = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    low, high = numbers.min(), numbers.max()
    grey = np.round((numbers - low) / (high - low or 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
