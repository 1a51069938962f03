"""Map-style rows: decoded at each access, or decoded once and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cynosure.errors import DataError
from cynosure_plugins.datasets.store import Fields, Row, open_arrays, read_all, report_skipped, stored

CHECK_UP_TO = 20_000
"""Sources of at most so many rows are read through once, before their first use, to leave out what cannot be read."""

log = logging.getLogger("cynosure.data")


class LiveRows(Sequence[Row]):
    """Rows decoded at each access by `read`. `skipped` has a sentence about every row left out.

    Up to CHECK_UP_TO rows are checked first, once, and the finding is kept on disk. A row that cannot be read later
    is named in a warning and gives way to the next good one, so that a long run does not die of one file.
    """

    def __init__(
        self, title: str, key: str, count: int, read: Callable[[int], Row], missing: Sequence[str] = ()
    ) -> None:
        self.title, self.key, self.read = title, key, read
        self.kept, self.skipped = np.arange(count), list(missing)
        if count <= CHECK_UP_TO:
            checked = stored(key, count, {}, self._check, f"checking {title}")
            self.kept = checked.kept
            self.skipped += checked.skipped
        report_skipped(title, self.skipped, len(self))

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: Any) -> Any:
        start = range(len(self))[index]
        for offset in range(len(self)):
            try:
                return self.read(int(self.kept[(start + offset) % len(self)]))
            except DataError as error:
                if str(error) not in self.skipped:
                    self.skipped.append(str(error))
                    log.warning("%s: %s; the next row takes its place", self.title, error)
        raise DataError(f"{self.title} holds no readable row: {self.skipped[-1]}")

    def _check(self) -> Iterable[Row | DataError]:
        rows = read_all(len(self.kept), self.read)
        return (row if isinstance(row, DataError) else {} for row in rows)


class StoredRows(Sequence[Row]):
    """Rows made once, at one size, and kept on disk. `skipped` has a sentence about every row left out.

    `fields` gives the shape and stored dtype of every array, `dtypes` the dtype that rows have it in where another.
    """

    def __init__(
        self,
        title: str,
        key: str,
        count: int,
        make: Callable[[], Iterable[Row | DataError]],
        fields: Fields,
        dtypes: Mapping[str, Any] | None = None,
        missing: Sequence[str] = (),
    ) -> None:
        kept = stored(key, count, fields, make, title)
        self.skipped = [*missing, *kept.skipped]
        report_skipped(title, self.skipped, len(kept.kept))
        self.key, self.arrays, self.columns, self.length = key, kept.arrays, kept.columns, len(kept.kept)
        self.dtypes = {name: (dtypes or {}).get(name, dtype) for name, (_, dtype) in fields.items()}

    def __getstate__(self) -> dict[str, Any]:
        # A worker process opens the files itself; in the pickle their whole content would travel.
        return {name: value for name, value in self.__dict__.items() if name != "arrays"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, arrays=open_arrays(state["key"], state["dtypes"], state["length"]))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        position = range(self.length)[index]
        row: dict[str, Any] = {name: array[position].astype(self.dtypes[name]) for name, array in self.arrays.items()}
        return row | {name: values[position] for name, values in self.columns.items()}
