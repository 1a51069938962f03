"""Rows made once and kept on disk as raw bytes: an epoch then costs microseconds a row, in every process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from cynosure.data.cache import cache_folder, writing_to
from cynosure.errors import DataError
from cynosure.progress import current_progress

LAYOUT = 3
"""Part of every key: raise it when what is stored changes its meaning."""
AT_ONCE = 64

log = logging.getLogger("cynosure.data")
Row = Mapping[str, Any]
Fields = Mapping[str, tuple[tuple[int, ...], Any]]
"""Shape and dtype of the arrays that are stored for each row, by name."""


@dataclass(frozen=True)
class Stored:
    """`arrays` [n, ...] and `columns` (lists of n) by field, the n positions `kept` of the source, and a sentence about
    each one `skipped`."""

    arrays: Mapping[str, np.ndarray]
    columns: Mapping[str, Sequence[Any]]
    kept: np.ndarray
    skipped: tuple[str, ...]


def key_of(*parts: Any) -> str:
    """A short key of everything that decides what is stored."""
    return hashlib.blake2b(json.dumps([LAYOUT, *parts], default=str).encode(), digest_size=16).hexdigest()


def stored(key: str, count: int, fields: Fields, make: Callable[[], Iterable[Row | DataError]], title: str) -> Stored:
    """The `count` rows that `make` gives in order, from the disk if they were made before; errors are left out.

    Fields of a row that are not in `fields` must be JSON values, and come back as columns. Raises DataError if the
    cache folder cannot be written.
    """
    if not count:
        return Stored({n: np.empty((0, *shape), dtype) for n, (shape, dtype) in fields.items()}, {}, np.arange(0), ())
    folder = cache_folder() / "rows" / key
    with writing_to(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _write(folder, count, fields, make, title)
    about = json.loads((folder / "rows.json").read_text())
    kept = np.asarray(about["kept"], dtype=np.int64)
    return Stored(open_arrays(key, fields, len(kept)), about["columns"], kept, tuple(about["skipped"]))


def open_arrays(key: str, fields: Iterable[str], count: int) -> dict[str, np.ndarray]:
    """The first `count` rows of stored arrays, read-only; plain arrays, since indexing a np.memmap costs much more."""
    folder = cache_folder() / "rows" / key
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)[:count] for name in fields}


def _write(folder: Path, count: int, fields: Fields, make: Callable[[], Iterable[Row | DataError]], title: str) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        arrays = {
            name: np.lib.format.open_memmap(partial / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *shape))
            for name, (shape, dtype) in fields.items()
        }
        kept: list[int] = []
        skipped: list[str] = []
        columns: dict[str, list[Any]] = {}
        with current_progress().bar(title, count) as bar:
            for position, row in enumerate(make()):
                bar.advance()
                if isinstance(row, DataError):
                    skipped.append(str(row))
                    continue
                for name, value in row.items():
                    if name in arrays:
                        arrays[name][len(kept)] = value
                    else:
                        columns.setdefault(name, []).append(value)
                kept.append(position)
        for array in arrays.values():
            array.flush()
        about = {"kept": kept, "skipped": skipped, "columns": columns}
        (partial / "rows.json").write_text(json.dumps(about))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_all(count: int, read: Callable[[int], Row]) -> Iterator[Row | DataError]:
    """What `read` gives for 0..count-1, or the DataError it raised, in order; read by a few threads."""

    def attempt(position: int) -> Row | DataError:
        try:
            return read(position)
        except DataError as error:
            return error

    # Pillow decodes without the interpreter lock; pieces bound how much decoded data waits in memory.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, count, AT_ONCE):
            yield from pool.map(attempt, range(start, min(start + AT_ONCE, count)))


def report_skipped(title: str, skipped: Sequence[str], left: int) -> None:
    """One warning that names the rows left out; DataError when none is left."""
    if not left:
        raise DataError(f"{title} holds no readable row" + (f": {skipped[0]}" if skipped else ""))
    if skipped:
        shown = "; ".join(skipped[:20]) + (f"; and {len(skipped) - 20} more" if len(skipped) > 20 else "")
        log.warning("%s: skipped %d of %d rows: %s", title, len(skipped), len(skipped) + left, shown)
