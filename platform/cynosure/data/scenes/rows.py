"""Scenes as stored rows: raw little-endian bytes, so that reading a row costs no decoding."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cynosure.data.scenes.render import image_size
from cynosure.errors import DataError, unknown

if TYPE_CHECKING:
    import datasets

ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "image": ("u1", (3,)),
    "panoptic": ("<i2", (2,)),
    "depth": ("<f4", ()),
    "degraded": ("u1", (3,)),
}
"""column -> (type, shape behind [H, W]) of the columns that hold the bytes of an array."""
COLUMNS = ("index", *ARRAYS, "caption", "objects")


def _decode(name: str, value: Any, size: tuple[int, int]) -> Any:
    if name in ARRAYS:
        kind, channels = ARRAYS[name]
        return np.frombuffer(value, kind).reshape(*size, *channels)
    return json.loads(value) if name == "objects" else value


def decode_row(row: dict[str, Any], size: int | Sequence[int]) -> dict[str, Any]:
    """A stored row with its arrays as `render_scenes` makes them; they are read-only views of the row's bytes."""
    shape = image_size(size)
    return {name: _decode(name, value, shape) for name, value in row.items()}


class SceneRows:
    """The decoded rows of a dataset made by `build_scenes`, or of any selection of it.

    Reads the columns `fields` alone, straight from the memory-mapped file. Arrays are read-only views.

    Raises:
        DataError: a field does not exist.
    """

    def __init__(self, dataset: "datasets.Dataset", size: int | Sequence[int], fields: Sequence[str] = COLUMNS) -> None:
        for field in fields:
            if field not in COLUMNS:
                raise DataError(unknown("field of scenes", field, COLUMNS))
        self.dataset = dataset
        self.size = image_size(size)
        self.fields = tuple(fields)
        flat = dataset if dataset._indices is None else dataset.flatten_indices()
        self._columns = {field: flat.data.column(field) for field in self.fields}

    def __reduce__(self) -> tuple[Any, ...]:
        # Columns would be copied into the pickle; the dataset is pickled as the name of its files.
        return SceneRows, (self.dataset, self.size, self.fields)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        decoded = {}
        for name, column in self._columns.items():
            cell = column[row]
            decoded[name] = _decode(name, cell.as_buffer() if name in ARRAYS else cell.as_py(), self.size)
        return decoded
