"""Whether parts should read the files of weights they start from or compute with, when they are built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WANTED: ContextVar[bool] = ContextVar("initial_weights", default=True)
_PLANNED: ContextVar[list[str] | None] = ContextVar("planned", default=None)


@contextmanager
def initial_weights(wanted: bool) -> Iterator[None]:
    """Within the block, parts that start from somebody's weights do so only if `wanted`."""
    token = _WANTED.set(wanted)
    try:
        yield
    finally:
        _WANTED.reset(token)


def initial_weights_wanted() -> bool:
    """Asked by a part that would download or read weights when it is built, which a checkpoint may replace."""
    return _WANTED.get() and _PLANNED.get() is None


@contextmanager
def planned() -> Iterator[list[str]]:
    """Within the block parts are built to be counted: they read no files, and say in the list which are not there."""
    missing: list[str] = []
    token = _PLANNED.set(missing)
    try:
        yield missing
    finally:
        _PLANNED.reset(token)


def missing_files() -> list[str] | None:
    """Where a part that is built to be counted says which files it lacks; None: it is built to compute."""
    return _PLANNED.get()
