"""Depth maps and segmentations as what pictures are made from, whatever they are read from. Shapes: H W pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cynosure.core.contracts import DatasetInfo, PartConfig
from cynosure.data.augment import row_name
from cynosure.errors import CynosureError, DataError

COLUMNS = {"depth": "depth", "segmentation": "panoptic"}
"""Kinds of map, and the columns of rows that hold them."""
LEVELS = 256


class MapConfig(PartConfig):
    """How the numbers of a map are meant."""

    depth_maps: Literal["distance", "inverse"] = Field(
        "distance",
        description="what they hold, in any unit: distances, 0 where missing, or inverse depths, as MiDaS writes them",
    )
    labels: int = Field(0, ge=0, description="how many classes a segmentation has, void (0) included; else the data's")
    shift: int = Field(
        0, description="what is added to the class numbers of files, modulo 256: 1 where 255 is void, as in COCO-Stuff"
    )


def with_labels(options: Mapping[str, Any], kind: str, info: DatasetInfo) -> Mapping[str, Any]:
    """The task's options with how many classes there are. CynosureError for data without such maps."""
    if COLUMNS[kind] not in info.fields:
        has = ", ".join(info.fields)
        raise CynosureError(f"dataset {info.name} has no {COLUMNS[kind]}, only {has}: choose other data or condition.")
    return {"labels": len(info.classes) + 1, **options} if kind == "segmentation" else options


def require_labels(kind: str, config: MapConfig) -> None:
    """Raises DataError for segmentations of which neither data nor options tell how many classes there are."""
    if kind == "segmentation" and not config.labels:
        raise DataError("a segmentation has no classes: set the task's `labels`, or train on data that declare them")


def read_map(row: Mapping[str, Any], column: str, config: MapConfig) -> np.ndarray:
    """The map in a row: inverse depth float32 [H, W] in [-1, 1], or classes int64 [H, W] in [0, labels).

    Raises DataError, naming the row, for what is no such map.
    """
    return _inverse_depth(row, config) if column == "depth" else _classes(row, column, config)


def _inverse_depth(row: Mapping[str, Any], config: MapConfig) -> np.ndarray:
    """The nearest of the picture is 1, the farthest -1; what is missing counts as infinitely far, like sky."""
    depth = np.asarray(row["depth"])
    if depth.ndim != 2 or depth.dtype.kind not in "buif" or not np.isfinite(depth).all():
        raise DataError(f"{row_name(row)}: depth must be finite numbers [H, W], not {depth.dtype} {list(depth.shape)}")
    depth = depth.astype(np.float32)
    if config.depth_maps == "distance":
        depth = np.divide(1, depth, out=np.zeros_like(depth), where=depth >= np.finfo(np.float32).tiny)
    low, high = depth.min(), depth.max()
    return (depth - low) / (high - low) * 2 - 1 if high > low else np.zeros_like(depth)


def _classes(row: Mapping[str, Any], column: str, config: MapConfig) -> np.ndarray:
    """Of a panoptic map (class, instance) [H, W, 2], or of a file's numbers [H, W]."""
    values = np.asarray(row[column])
    panoptic = values.ndim == 3 and values.shape[2] == 2
    if not (values.ndim == 2 or panoptic) or values.dtype.kind not in "bui":
        raise DataError(
            f"{row_name(row)}: a segmentation is whole numbers [H, W], not {values.dtype} {list(values.shape)}"
        )
    classes = values.astype(np.int64)
    if panoptic:
        classes = classes[..., 0].clip(0)
    elif config.shift:
        classes = (classes + config.shift) % LEVELS
    for wrong in (classes.min(), classes.max()):
        if not 0 <= wrong < config.labels:
            raise DataError(
                f"{row_name(row)}: the segmentation holds class {wrong}, but classes are 0 to {config.labels - 1}"
            )
    return classes
