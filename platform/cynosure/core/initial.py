"""Whether parts should fetch pretrained weights: not when a checkpoint is about to replace them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WANTED: ContextVar[bool] = ContextVar("initial_weights", default=True)


@contextmanager
def initial_weights(wanted: bool) -> Iterator[None]:
    """Within the block, parts that start from somebody's weights do so only if `wanted`."""
    token = _WANTED.set(wanted)
    try:
        yield
    finally:
        _WANTED.reset(token)


def initial_weights_wanted() -> bool:
    """Asked by a part that would download or read weights when it is built."""
    return _WANTED.get()
