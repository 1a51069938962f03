"""Safetensors files written and read one tensor after another, for models that do not fit into memory twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch

from cynosure.core.records import LazyTensor
from cynosure.errors import CheckpointError
from cynosure.progress import Progress
from cynosure.train.checkpoint import opened, write_whole

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's names of types."""
ALIGNMENT = 8


def stream_tensors(
    path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str], progress: Progress
) -> None:
    """Write tensors to one safetensors file, whole or not at all; one of them is in memory at a time.

    Raises CheckpointError when the file cannot be written or a tensor turns out not to be of the shape it said.
    """
    write_whole(path, lambda temporary: _write(temporary, tensors, metadata, progress))


def lazy_tensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file, each read when it is made."""
    types = {code: dtype for dtype, code in CODES.items()}
    with opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: LazyTensor(tuple(part.get_shape()), types[part.get_dtype()], partial(_read, path, name))
            for name, part in slices.items()
        }


def _read(path: Path, name: str) -> torch.Tensor:
    with opened(path) as file:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor


def _write(path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str], progress: Progress) -> None:
    # Wide types first, as the format's own writer does: every tensor then starts at a multiple of its item size.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    total = sum(map(_size, ordered.values()))
    with open(path, "wb") as file, progress.bar("writing (MB)", _megabytes(total)) as bar:
        _write_header(file, ordered, metadata)
        written = 0
        for name, lazy in ordered.items():
            file.write(_bytes(name, lazy))
            before, written = written, written + _size(lazy)
            if step := _megabytes(written) - _megabytes(before):
                bar.advance(step, name)


def _write_header(file: BinaryIO, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, lazy in tensors.items():
        end = start + _size(lazy)
        header[name] = {"dtype": CODES[lazy.dtype], "shape": list(lazy.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)


def _bytes(name: str, lazy: LazyTensor) -> memoryview:
    tensor = lazy.make()
    if (tuple(tensor.shape), tensor.dtype) != (lazy.shape, lazy.dtype):
        raise CheckpointError(
            f"{name} came out as {list(tensor.shape)} {tensor.dtype}, not as {list(lazy.shape)} {lazy.dtype}: "
            "the importer is wrong, tell its author."
        )
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _size(lazy: LazyTensor) -> int:
    return prod(lazy.shape) * lazy.dtype.itemsize


def _megabytes(count: int) -> int:
    return -(-count // 1_000_000)
