"""PyTorch checkpoints read without running anything that is in them, one tensor at a time.

A checkpoint of Lightning holds much besides tensors: callbacks, configurations, schedules, as pickles that name classes
of other packages. `torch.load` either runs these or refuses the file. Here every name becomes an inert stand-in, except
the few that describe a tensor, and those only note where its numbers lie.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from cynosure.errors import CheckpointError
from cynosure_plugins.importers.archive import Archive
from cynosure_plugins.importers.arrays import Shape
from cynosure_plugins.importers.npz import guess

TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What files of PyTorch before 1.6 begin with: pickles one after another, then the numbers."""
DAMAGE = (
    *(OSError, EOFError, zipfile.BadZipFile, NotImplementedError, pickle.UnpicklingError, MemoryError, RecursionError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, ArithmeticError, RuntimeError),
)
"""What reading a cut-off or foreign file raises; a hostile pickle can make the unpickler raise nearly anything."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers of one type, by the key under which the file has them."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that is still in its file; places are counted in elements of the storage."""

    storage: Storage
    offset: int
    shape: Shape
    strides: Shape

    @property
    def extent(self) -> int:
        """Elements of the storage from its first to its last one."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))


class Inert:
    """Stands for whatever a pickle names or makes: takes everything, does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def _nothing(self, *args: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _nothing


class _Named:
    """A name that describes tensors. Without attributes, so that a pickle cannot change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)


def _tensor(storage: Storage, offset: int, shape: Any, strides: Any, *rest: Any) -> Stored:
    """What PyTorch writes of a tensor."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor is described by something else than numbers")
    stored = Stored(storage, offset, tuple(shape), tuple(strides))
    if stored.extent < np.prod(stored.shape, dtype=object):
        raise ValueError("a tensor has more elements than numbers")
    return stored


TENSORS = {"_rebuild_tensor": _tensor, "_rebuild_tensor_v2": _tensor, "_rebuild_parameter": lambda data, *rest: data}


class _Unpickler(pickle.Unpickler):
    """Makes dicts, lists, strings, numbers, `Stored` tensors, and `Inert` for all else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in TENSORS:
            return _Named(TENSORS[name])
        if module == "torch" and name in TYPES:
            return TYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return Inert

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or any(view):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return Storage(key, dtype)


class TorchFile(Archive):
    """The state dict of a `.ckpt` or `.pt` file: `shapes` and values by name; `keys` of what it lies in.

    Both formats are read, that of PyTorch 1.6 and later (a zip archive), and the one before. Raises CheckpointError for
    a file that cannot be read, or without a state dict.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._open: _Zip | _Legacy = _Zip(path) if zipfile.is_zipfile(path) else _Legacy(path)
            top = self._open.content
            self.keys = tuple(str(key) for key in top) if isinstance(top, Mapping) else ()
            self._stored = _state(top)
            self.shapes = {name: stored.shape for name, stored in self._stored.items()}
            for name, stored in self._stored.items():
                _require_room(name, stored, self._open.sizes)
        except DAMAGE as error:
            raise self._damaged(error) from error
        if not self.shapes:
            raise CheckpointError(f"{path} holds no state dict; {guess(list(self.keys))}.")

    def __getitem__(self, name: str) -> np.ndarray:
        stored = self._stored[name]
        size = stored.storage.dtype.itemsize
        try:
            data = self._open.read(stored.storage.key, stored.offset * size, stored.extent * size)
        except DAMAGE as error:
            raise self._damaged(error) from error
        if not data:
            return np.zeros(stored.shape, np.float32)
        flat = torch.frombuffer(data, dtype=stored.storage.dtype)
        return flat.as_strided(stored.shape, stored.strides).to(torch.float32).contiguous().numpy()

    def _damaged(self, error: BaseException) -> CheckpointError:
        text = str(error) or type(error).__name__
        return CheckpointError(
            f"{self.path} cannot be read ({text}): it was cut short or is no PyTorch checkpoint; fetch it again."
        )


class _Zip:
    """What a file of PyTorch 1.6 or later holds; `sizes` of storages in bytes."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        names = self._archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(guess(names))
        self._root = pickles[0].removesuffix("data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in self._archive.infolist()):
            raise ValueError("it is compressed, which PyTorch never does")
        if f"{self._root}byteorder" in names and self._archive.read(f"{self._root}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        self.content = _Unpickler(io.BytesIO(self._archive.read(pickles[0]))).load()
        folder = f"{self._root}data/"
        infos = [info for info in self._archive.infolist() if info.filename.startswith(folder)]
        self.sizes = {info.filename.removeprefix(folder): info.file_size for info in infos}

    def read(self, key: str, offset: int, size: int) -> bytearray:
        with self._archive.open(f"{self._root}data/{key}") as file:
            file.seek(offset)
            return _read(file, size)  # type: ignore[arg-type]


class _Legacy:
    """What a file of PyTorch before 1.6 holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sizes: dict[str, int] = {}
        self._starts: dict[str, int] = {}
        with path.open("rb") as file:
            if file.read(1) != b"\x80":
                raise ValueError("it does not begin like one")
            file.seek(0)
            if any(_Unpickler(file).load() != number for number in (LEGACY_MAGIC, LEGACY_PROTOCOL)):
                raise ValueError("it is some other pickle")
            system = _Unpickler(file).load()
            if not isinstance(system, dict) or not system.get("little_endian"):
                raise ValueError("its numbers are big-endian")
            unpickler = _Collector(file)
            self.content = unpickler.load()
            end = path.stat().st_size
            for key in _Unpickler(file).load():
                start = file.tell() + 8
                size = int.from_bytes(file.read(8), "little") * unpickler.types[key].itemsize
                if start + size > end:
                    raise EOFError("it ends too early")
                self._starts[key], self.sizes[key] = start, size
                file.seek(start + size)

    def read(self, key: str, offset: int, size: int) -> bytearray:
        with self._path.open("rb") as file:
            file.seek(self._starts[key] + offset)
            return _read(file, size)


class _Collector(_Unpickler):
    """Notes the types of storages, which the old format has nowhere else."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.types: dict[str, torch.dtype] = {}

    def persistent_load(self, pid: Any) -> Storage:
        storage = super().persistent_load(pid)
        self.types[storage.key] = storage.dtype
        return storage


def _read(file: BinaryIO, size: int) -> bytearray:
    data = bytearray(file.read(size))
    if len(data) != size:
        raise EOFError("it ends too early")
    return data


def _state(top: Any) -> dict[str, Stored]:
    """The tensors of 'state_dict', or of the outermost dict."""
    found = top.get("state_dict", top) if isinstance(top, Mapping) else {}
    items = found.items() if isinstance(found, Mapping) else ()
    return {name: value for name, value in items if isinstance(name, str) and isinstance(value, Stored)}


def _require_room(name: str, stored: Stored, sizes: Mapping[str, int]) -> None:
    """Raises ValueError for a tensor that reaches beyond its storage."""
    if (stored.offset + stored.extent) * stored.storage.dtype.itemsize > sizes.get(stored.storage.key, 0):
        raise ValueError(f"{name} is longer than the numbers that the file has for it")
