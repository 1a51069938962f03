"""Values as sources store them -> fields of a row in their canonical form."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from cynosure.data.augment import resize_image, resize_nearest
from cynosure.data.pictures import load_picture
from cynosure.errors import DataError, did_you_mean
from cynosure_plugins.datasets.pixels import centre_box
from cynosure_plugins.datasets.splits import ending

Field = Literal["image", "caption", "label", "depth", "degraded"]
USUAL: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "img", "jpg", "jpeg", "png", "webp"),
    "caption": ("caption", "text", "txt"),
    "label": ("label", "cls"),
    "depth": ("depth", "depth_map"),
    "degraded": ("degraded", "input", "low_light", "low"),
}
"""The columns a field is looked for in when the recipe names none; txt, cls and the endings are webdataset's names."""
PICTURES = ("image", "degraded")


def find_columns(features: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, str]:
    """Field -> source column, possibly dotted ('json.caption'), out of what a source's rows have by name.

    Raises DataError for a column that does not exist.
    """
    available = list(features)
    free = [name for name in available if name not in chosen.values()]
    columns = {}
    for field, usual in USUAL.items():
        column = chosen.get(field) or next((name for name in usual if name in free), None)
        if column is None:
            continue
        if (names := _instead(features, column)) is not None:
            hint = did_you_mean(column, names) or "."
            raise DataError(f"the source has no column '{column}' for {field}{hint} It has {', '.join(names)}")
        columns[field] = column
    if not columns.keys() & set(PICTURES):
        raise DataError(f"which column holds the pictures? Set `columns.image` to one of {', '.join(available)}")
    return columns


def _instead(features: Mapping[str, Any], column: str) -> list[str] | None:
    """What there is in place of a column that does not exist, dotted as far as that does; None for one that does."""
    here: Any = features
    before = ""
    for part in column.split("."):
        here = here[0] if isinstance(here, list) else getattr(here, "feature", here)
        if not isinstance(here, Mapping):
            return [before.removesuffix(".")]
        if part not in here:
            return [before + name for name in here]
        here, before = here[part], f"{before}{part}."
    return None


@dataclass(frozen=True)
class Reader:
    """Makes rows of raw ones. `columns` maps fields to source columns, `depth_scale` is metres of an integer depth's
    unit, `size` (H, W) what rows are cropped and resized to, if given."""

    columns: Mapping[str, str]
    depth_scale: float
    size: tuple[int, int] | None

    def __call__(self, raw: Mapping[str, Any], position: int) -> dict[str, Any]:
        """The row; raises DataError, naming it by its file or its position in the source."""
        name = self._name(raw, position)
        row: dict[str, Any] = {}
        for field, column in self.columns.items():
            value = _pick(raw, column)
            if value is None and field != "caption":
                raise DataError(f"{name} has no {field}")
            if field in PICTURES:
                row[field] = load_picture(_encoded(value), None if isinstance(value, str) else name).image
            elif field == "depth":
                row[field] = _depth(value, name, self.depth_scale)
            else:
                row[field] = _caption(value, name) if field == "caption" else _label(value, name)
        return _resized(row, self.size) if self.size else row

    def identity(self, raw: Mapping[str, Any]) -> bytes:
        """What makes a row itself, wherever it lies: the encoded picture, or the end of its path."""
        value = self._picture(raw)
        if isinstance(value, Mapping):
            return value.get("bytes") or ending(str(value.get("path"))).encode()
        return np.ascontiguousarray(value).tobytes()

    def _picture(self, raw: Mapping[str, Any]) -> Any:
        return _pick(raw, next(self.columns[field] for field in PICTURES if field in self.columns))

    def _name(self, raw: Mapping[str, Any], position: int) -> str:
        value = self._picture(raw)
        path = value.get("path") if isinstance(value, Mapping) else None
        return str(path) if path else f"row {position}"


def _pick(raw: Mapping[str, Any], column: str) -> Any:
    """The value of a column, possibly dotted; within lists that of the first."""
    value: Any = raw
    for part in column.split("."):
        if isinstance(value, (list, tuple)):
            value = value[0] if value else None
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _encoded(value: Any) -> Any:
    """Bytes, a path, a PIL image or an array, from what `datasets` gives."""
    if isinstance(value, Mapping):
        return value["bytes"] if value.get("bytes") is not None else str(value.get("path"))
    return np.asarray(value) if isinstance(value, list) else value


def _depth(value: Any, name: str, scale: float) -> np.ndarray:
    """Metres float32 [H, W], 0 where missing: integers times `scale`, floats as they are."""
    value = _encoded(value)
    try:
        if isinstance(value, str):
            value = Path(value).read_bytes()
        if isinstance(value, bytes):
            with Image.open(io.BytesIO(value)) as image:
                value = np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the depth of '{name}' cannot be read: {error}") from error
    depth = np.squeeze(np.asarray(value))
    if depth.ndim != 2 or depth.dtype.kind not in "iuf" or not depth.size:
        raise DataError(f"the depth of '{name}' must be one channel of numbers, not {depth.dtype} {list(depth.shape)}")
    metres = depth.astype(np.float32) * (1.0 if depth.dtype.kind == "f" else scale)
    return np.where(np.isfinite(metres) & (metres > 0), metres, 0).astype(np.float32)


def _caption(value: Any, name: str) -> str:
    """Of several captions the first; none is an empty one."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"the caption of '{name}' is no UTF-8 text; choose another column for it") from error
    if value is not None and not isinstance(value, str):
        raise DataError(f"the caption of '{name}' must be text, not {value!r}; choose another column for it")
    return value or ""


def _label(value: Any, name: str) -> int:
    if not isinstance(value, (int, np.integer)):
        raise DataError(f"the label of '{name}' must be a number, not {value!r}; choose another column for it")
    return int(value)


def _resized(row: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    resizers: dict[str, Callable[..., np.ndarray]] = dict.fromkeys(PICTURES, resize_image) | {"depth": resize_nearest}
    for field, resize in resizers.items():
        if field in row:
            row[field] = resize(row[field], size, box=centre_box(row[field].shape[:2], size))
    return row
