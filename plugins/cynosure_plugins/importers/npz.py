"""NumPy archives read safely and one array at a time: no pickles, bfloat16 understood, damage said in one sentence."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from cynosure.errors import CheckpointError
from cynosure_plugins.importers.archive import Archive
from cynosure_plugins.importers.arrays import Shape

DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What reading a cut-off or foreign file raises."""


class Npz(Archive):
    """The arrays of an .npz file: their shapes now, their values when asked for, always float32.

    `rename` turns the names of the file into those asked for, or into '' for arrays that are of no interest. Raises
    CheckpointError for a file that cannot be read, and for arrays that are no numbers.
    """

    def __init__(self, path: Path, rename: Callable[[str], str] = str) -> None:
        self.path = path
        self.shapes: dict[str, Shape] = {}
        self._members: dict[str, str] = {}
        if not path.is_file():
            raise CheckpointError(f"there is no file {path}.")
        try:
            self._archive = zipfile.ZipFile(path)
            found = {member.removesuffix(".npy"): member for member in self._archive.namelist()}
            if "npy" not in {member.rpartition(".")[2] for member in found.values()}:
                raise CheckpointError(f"{path} is no .npz file; {guess(list(found))}.")
            headers = {name: _header(self._archive, member) for name, member in found.items()}
        except DAMAGE as error:
            raise _damaged(path, error) from error
        if wrong := [name for name, (_, dtype) in headers.items() if not (_is_bfloat16(dtype) or dtype.kind in "fiu")]:
            raise CheckpointError(f"{path} holds {len(wrong)} arrays that are no numbers, such as '{wrong[0]}'.")
        for name, (shape, _) in headers.items():
            if new := rename(name):
                self.shapes[new], self._members[new] = shape, found[name]

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            with self._archive.open(self._members[name]) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except DAMAGE as error:
            raise _damaged(self.path, error) from error
        if _is_bfloat16(array.dtype):
            return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32, copy=False)


def guess(names: list[str]) -> str:
    """What a file with these names may be, as the rest of a sentence."""
    for part, what in SIGNATURES.items():
        if any(part in name for name in names):
            return f"this looks like {what}"
    return f"its names are {', '.join(names[:4])}" if names else "it is empty"


SIGNATURES = {
    "data.pkl": "a PyTorch checkpoint",
    "EncDecBlock": "a UViM language model (stage II)",
    "state/dictionary": "a UViM model of stage I",
    "Transformer/encoderblock_": "a ViT for classification, which encoder vit takes as `weights`",
}


def _header(archive: zipfile.ZipFile, member: str) -> tuple[Shape, np.dtype]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        held = archive.getinfo(member).file_size - file.tell()
    if not dtype.hasobject and held != prod(shape) * dtype.itemsize:
        raise ValueError(f"{member} holds {held} bytes for {list(shape)} values of {dtype}")
    return shape, dtype


def _is_bfloat16(dtype: np.dtype) -> bool:
    """NumPy stores the type it does not know as two nameless bytes."""
    return dtype.kind == "V" and dtype.itemsize == 2


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read ({error}): it was cut short or is no .npz file; fetch it again.")
