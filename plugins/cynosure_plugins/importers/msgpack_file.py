"""Flax checkpoints (`flax.serialization.to_bytes`): MessagePack with arrays in it, read one array at a time.

Of MessagePack everything that Flax writes: maps, lists, strings, bytes, numbers, and extension 1, an array as
[shape, type, bytes]. Arrays beyond a gigabyte are maps of several. Nothing else is known, and nothing is ever run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cynosure.errors import CheckpointError
from cynosure_plugins.importers.archive import Archive
from cynosure_plugins.importers.arrays import Shape
from cynosure_plugins.importers.npz import guess

NDARRAY = 1
CHUNKED = "__msgpack_chunked_array__"
BFLOAT16 = ("bfloat16", "V2")
"""The names that Flax has given to it over time."""
DEEPEST = 100
"""Maps within maps; a tree of parameters has about ten."""
NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
SIZED = {
    **{0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4), 0xC7: ("ext", 1), 0xC8: ("ext", 2)},
    **{0xC9: ("ext", 4), 0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4), 0xDC: ("list", 2)},
    **{0xDD: ("list", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)},
}
"""First byte -> what follows, and in how many bytes its size is written."""
DAMAGE = (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, struct.error)


@dataclass(frozen=True)
class Stored:
    """An array that is still in its file, in pieces (place, bytes)."""

    shape: Shape
    dtype: str
    pieces: tuple[tuple[int, int], ...]


class Msgpack(Archive):
    """The arrays of a checkpoint by path, joined by slashes. Raises CheckpointError for a file that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"there is no file {path}.")
        try:
            with path.open("rb") as file:
                reader = _Reader(file, path.stat().st_size)
                tree = reader.value()
                reader.require_end()
            self._stored = dict(_leaves(tree))
        except DAMAGE as error:
            raise self._damaged(error) from error
        self.shapes = {name: stored.shape for name, stored in self._stored.items()}
        if not self.shapes:
            raise CheckpointError(f"{path} holds no arrays; {guess(list(tree) if isinstance(tree, Mapping) else [])}.")

    def __getitem__(self, name: str) -> np.ndarray:
        stored = self._stored[name]
        try:
            with self.path.open("rb") as file:
                parts = [_numbers(_bytes(file, *piece), stored.dtype) for piece in stored.pieces]
        except DAMAGE as error:
            raise self._damaged(error) from error
        flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return flat.reshape(stored.shape)

    def _damaged(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self.path} cannot be read ({error}): it was cut short or is no Flax checkpoint; fetch it again."
        )


class _Reader:
    """Reads one value after another; arrays stay where they are."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._end = file, end

    def value(self, depth: int = 0) -> Any:
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        first = self._take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first in NUMBERS:
            return struct.unpack(NUMBERS[first], self._take(struct.calcsize(NUMBERS[first])))[0]
        kind, size = self._size(first)
        if kind == "map":
            return {self.value(depth + 1): self.value(depth + 1) for _ in range(size)}
        if kind == "list":
            return [self.value(depth + 1) for _ in range(size)]
        if kind == "ext":
            return self._extension(size)
        if kind == "str":
            return self._take(size).decode()
        return self._skip(size)

    def require_end(self) -> None:
        if self._file.tell() != self._end:
            raise ValueError("something follows after its end")

    def _size(self, first: int) -> tuple[str, int]:
        """What a first byte announces, and how much of it."""
        if first < 0xC0:
            short = ("map", 15) if first < 0x90 else ("list", 15) if first < 0xA0 else ("str", 31)
            return short[0], first & short[1]
        if 0xD4 <= first <= 0xD8:
            return "ext", 1 << (first - 0xD4)
        if first not in SIZED:
            raise ValueError(f"byte {first:#x} means nothing")
        kind, width = SIZED[first]
        return kind, int.from_bytes(self._take(width), "big")

    def _extension(self, size: int) -> Stored | None:
        """An array; complex numbers and single numbers are passed over."""
        kind = self._take(1)[0]
        start = self._file.tell()
        if kind != NDARRAY:
            self._skip(size)
            return None
        shape, dtype, data = self.value()
        dtype = self._text(dtype) if isinstance(dtype, tuple) else dtype
        if not isinstance(data, tuple) or self._file.tell() != start + size:
            raise ValueError("an array is not what Flax writes")
        if not all(type(n) is int and n >= 0 for n in shape) or _itemsize(dtype) * prod(shape) != data[1]:
            raise ValueError(f"an array of {data[1]} bytes says it holds {shape} values of {dtype}")
        return Stored(tuple(shape), dtype, (data,))

    def _text(self, place: tuple[int, int]) -> str:
        """Old Flax writes names as bytes."""
        here = self._file.tell()
        text = _bytes(self._file, *place).decode()
        self._file.seek(here)
        return text

    def _take(self, size: int) -> bytes:
        data = self._file.read(size) if size <= self._end else b""
        if len(data) != size:
            raise EOFError("it ends too early")
        return data

    def _skip(self, size: int) -> tuple[int, int]:
        """Where bytes lie that are not read now."""
        start = self._file.tell()
        if start + size > self._end:
            raise EOFError("it ends too early")
        self._file.seek(start + size)
        return start, size


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Stored]]:
    if isinstance(tree, Stored):
        yield path, tree
    elif isinstance(tree, Mapping) and CHUNKED in tree:
        yield path, _whole(tree)
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _leaves(value, f"{path}/{name}" if path else str(name))


def _whole(chunks: Mapping[str, Any]) -> Stored:
    """The array that was cut into pieces."""
    shape, parts = ([chunks[name][str(i)] for i in range(len(chunks[name]))] for name in ("shape", "chunks"))
    if not parts or any(not isinstance(part, Stored) or part.dtype != parts[0].dtype for part in parts):
        raise ValueError("the pieces of an array are not what Flax writes")
    if prod(shape) != sum(prod(part.shape) for part in parts):
        raise ValueError("the pieces of an array do not make the whole")
    return Stored(tuple(shape), parts[0].dtype, tuple(piece for part in parts for piece in part.pieces))


def _itemsize(dtype: str) -> int:
    """Bytes of a number. Raises ValueError for what is no number."""
    if dtype in BFLOAT16:
        return 2
    found = np.dtype(dtype)
    if found.kind not in "fiub":
        raise ValueError(f"an array holds {dtype}, no numbers")
    return found.itemsize


def _numbers(data: bytes, dtype: str) -> np.ndarray:
    if dtype in BFLOAT16:
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(np.float32)


def _bytes(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise EOFError("it ends too early")
    return data
