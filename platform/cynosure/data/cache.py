"""The folder in which Cynosure keeps what is slow to make."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cynosure.errors import DataError


def cache_folder() -> Path:
    """$CYNOSURE_CACHE, else the user's cache folder."""
    named = os.environ.get("CYNOSURE_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cynosure"


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Around what writes to the cache: a folder that cannot be written, or a full disk, becomes a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"nothing can be kept in {folder} ({error.strerror or error}): set CYNOSURE_CACHE to a folder with room"
        ) from error
