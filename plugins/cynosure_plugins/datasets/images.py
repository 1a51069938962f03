"""Pictures with captions, labels, depths or low-light copies, from wherever they lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo, PartConfig
from cynosure.errors import DataError, unknown
from cynosure_plugins.datasets import columns as columns_
from cynosure_plugins.datasets.pixels import Size, height_width
from cynosure_plugins.datasets.rows import LiveRows, StoredRows
from cynosure_plugins.datasets.sources import Kind, kind_of, open_source
from cynosure_plugins.datasets.splits import (
    HOLD_OUT_AT_MOST,
    SPLITS,
    Holdout,
    SplitDataset,
    assign,
    ending,
    hold_out,
    spread,
)
from cynosure_plugins.datasets.store import key_of, read_all
from cynosure_plugins.datasets.streams import Held, StreamRows


class Images(SplitDataset[LiveRows | StoredRows | StreamRows]):
    """Pictures and what belongs to them, loaded by the `datasets` library.

    A row has the fields that the source has columns for: image, and caption, label, depth, degraded. Rows whose files
    are missing, damaged or no pictures are named in one warning and left out (`rows.skipped`); DataError if none stays.
    Splits that the source lacks are held out of its training data, by a hash of a picture's path or of a row's number,
    and of the picture itself where it is streamed: a StreamRows has no length, and `stream` for training. `classes` of
    the info names the labels, when the source does: label 0 first.
    """

    class Config(PartConfig):
        source: str
        """A folder, *.parquet files, webdataset *.tar files (path, folder or glob), or a dataset's name on the hub."""
        kind: Literal["auto"] | Kind = "auto"
        subset: str | None = None
        """The configuration, for hub datasets that have several."""
        columns: Mapping[columns_.Field, str] = {}
        """Field -> source column, where it has an unusual name; dots reach inside ('json.caption')."""
        splits: Mapping[Literal["train", "validation", "test"], str] = {}
        """Our split -> source split, or a slice of one ('train[:90%]'; not when streaming)."""
        holdout: Holdout = 0.1
        """Part of the training data held out (at most 1000 rows), or how many rows (not when streaming), for each of
        validation and test that is missing."""
        size: Size | None = None
        """Decode once and keep on disk at this size: the largest centred crop, antialiased; null decodes each time."""
        depth_scale: float = Field(0.001, gt=0)
        """Metres of one unit, where depths are stored as integers."""
        streaming: bool = False
        """Read in passing instead of fetching everything first."""
        buffer: int = Field(1000, ge=0)
        """Rows that a training stream is shuffled among."""
        limit: int | None = Field(None, ge=1)
        """At most so many rows of each split."""
        seed: int = 0

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.kind: Kind = kind_of(config.source) if config.kind == "auto" else config.kind
        self._tables: dict[str, Any] = {}

    @cached_property
    def info(self) -> DatasetInfo:
        features = self._table(next(iter(self._given.values()))).features or {}
        names = getattr(features.get(self._columns.get("label")), "names", None) or ()
        return DatasetInfo(
            name="images", fields=tuple(self._columns), classes=tuple((str(name), True) for name in names)
        )

    def count(self, split: str) -> int | None:
        """Rows of a split, readable or not; of a stream unknown."""
        return None if self.config.streaming else len(spread(len(self._positions(split)[1]), self.config.limit))

    def _read(self, split: str) -> LiveRows | StoredRows | StreamRows:
        return self._streamed(split) if self.config.streaming else self._counted(split)

    def _counted(self, split: str) -> LiveRows | StoredRows:
        title, reader = f"{self._name} {split}", self._reader
        table, positions = self._positions(split)
        positions = positions[spread(len(positions), self.config.limit)]
        read = partial(_read_at, table, positions, reader)
        key = key_of("images", table._fingerprint, positions.tobytes().hex(), asdict(reader))
        if reader.size is None:
            return LiveRows(title, key, len(positions), read)
        picture, depth = ((*reader.size, 3), np.uint8), (reader.size, np.float32)
        shapes = {"image": picture, "degraded": picture, "depth": depth}
        fields = {name: shape for name, shape in shapes.items() if name in reader.columns}
        return StoredRows(title, key, len(positions), lambda: read_all(len(positions), read), fields)

    def _positions(self, split: str) -> tuple[Any, np.ndarray]:
        """The table that has the rows of a split, and their positions in it."""
        if split != "train" and split in self._given:
            table = self._table(self._given[split])
            return table, np.arange(len(table))
        table = self._table(self._training(split))
        return table, hold_out(self._identities(table), self._absent, self.config.holdout, self.config.seed)[split]

    def _identities(self, table: Any) -> Iterable[str]:
        """Of rows in a folder the ends of their paths, of others their numbers: pictures inside files are not read."""
        if self.kind == "folder":
            values = table[next(self._columns[field] for field in columns_.PICTURES if field in self._columns)]
            return [ending(value["path"]) for value in values]
        return map(str, range(len(table)))

    def _streamed(self, split: str) -> StreamRows:
        config, reader, held = self.config, self._reader, split not in self._given
        absent, limit = self._absent, config.limit
        belongs = None
        if absent and (held or split == "train"):
            if config.holdout >= 1:
                raise DataError(
                    f"a stream is not counted: hold out a share of '{config.source}' such as holdout: 0.01, or set "
                    "streaming: false"
                )
            belongs = Held(split, absent, config.holdout, config.seed, reader.identity)
        if held and split != "train":
            limit = min(limit or HOLD_OUT_AT_MOST, HOLD_OUT_AT_MOST)
        source = self._table(self._training(split) if held else self._given[split])
        buffer = config.buffer if split == "train" else 0
        return StreamRows(f"{self._name} {split}", source, reader, belongs, buffer, config.seed, limit)

    @property
    def _reader(self) -> columns_.Reader:
        size = self.config.size
        return columns_.Reader(self._columns, self.config.depth_scale, height_width(size) if size else None)

    @property
    def _name(self) -> str:
        """The source in a word or two, for progress and messages."""
        return self.config.source if self.kind == "hub" else Path(self.config.source).name

    def _training(self, split: str) -> str:
        if "train" not in self._given:
            raise DataError(f"`splits` of '{self.config.source}' names neither {split} nor train rows; add `{split}`")
        return self._given["train"]

    @property
    def _absent(self) -> list[str]:
        return [split for split in SPLITS[1:] if split not in self._given]

    @cached_property
    def _given(self) -> dict[str, str]:
        """Our splits -> source splits or slices."""
        config = self.config
        if not config.splits:
            return assign(self._source)
        if config.streaming and (sliced := next((s for s in config.splits.values() if "[" in s), None)):
            raise DataError(f"a stream has no slices such as '{sliced}'; name whole splits, or set streaming: false")
        return {str(ours): theirs for ours, theirs in config.splits.items()}

    @cached_property
    def _source(self) -> Mapping[str, Any]:
        return open_source(self.config.source, self.kind, self.config.subset, self.config.streaming)

    def _table(self, split: str) -> Any:
        """A source split with pictures left encoded, so that one damaged picture is no error of the library's."""
        import datasets

        if split not in self._tables:
            config = self.config
            if split in self._source:
                table = self._source[split]
            elif "[" in split:
                table = open_source(config.source, self.kind, config.subset, config.streaming, split)
            else:
                raise DataError(unknown(f"split of '{config.source}'", split, self._source))
            if table.features is None:
                table = table._resolve_features()
            for name, feature in table.features.items():
                if isinstance(feature, datasets.Image):
                    table = table.cast_column(name, datasets.Image(decode=False))
            self._tables[split] = table
        return self._tables[split]

    @cached_property
    def _columns(self) -> dict[str, str]:
        table = self._table(next(iter(self._given.values())))
        return columns_.find_columns(table.features, {str(f): c for f, c in self.config.columns.items()})


def _read_at(table: Any, positions: np.ndarray, reader: columns_.Reader, index: int) -> dict[str, Any]:
    """Row `index` of those that lie at `positions` in a table."""
    position = int(positions[index])
    return reader(table[position], position)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.dataset("images", Images)
