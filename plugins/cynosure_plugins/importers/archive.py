"""Checkpoints as arrays by name, whatever their format: shapes now, values when they are asked for."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cynosure.core.records import LazyTensor
from cynosure.errors import CheckpointError
from cynosure.train.checkpoint import differences
from cynosure_plugins.importers.arrays import Made, Shape

Table = dict[str, Made]


class Archive(ABC):
    """The arrays of a file: `shapes` by name, and `archive[name]` reads one, always float32.

    Reading raises CheckpointError for a file that is damaged.
    """

    path: Path
    shapes: dict[str, Shape]
    prefix: str = ""
    """What stands before the names in the file."""

    @abstractmethod
    def __getitem__(self, name: str) -> np.ndarray: ...

    def tensors(self, table: Mapping[str, Made]) -> dict[str, LazyTensor]:
        """The tensors of a table, each made of this archive's arrays."""
        return {
            name: LazyTensor(made.shape(self.shapes), made.dtype, partial(self._tensor, made))
            for name, made in table.items()
        }

    def _tensor(self, made: Made) -> torch.Tensor:
        return torch.from_numpy(np.asarray(made.make(self), order="C"))

    def problems(self, table: Mapping[str, Made], what: str) -> list[str]:
        """Names missing or left over and shapes that do not fit, as one sentence, for a file that is all of a table."""
        wanted, given = ({self.prefix + k: v for k, v in each.items()} for each in (wanted_shapes(table), self.shapes))
        found = differences(wanted, given)
        return [f"{self.path} is no complete {what}: {'; '.join(found)}."] if found else []

    def require(self, names: Iterable[str], what: str) -> None:
        """Raises CheckpointError for the names that are missing, of those that tell the sizes of all others."""
        if missing := [self.prefix + name for name in names if name not in self.shapes]:
            self.refuse([f"{len(missing)} missing ({', '.join(missing)})"], what)

    def refuse(self, problems: Iterable[str], what: str) -> None:
        """Raises CheckpointError if there are problems."""
        if found := list(problems):
            raise CheckpointError(f"{self.path} is no complete {what}: {'; '.join(found)}.")

    def count(self, prefix: str) -> int:
        """How many numbers follow this prefix in names, 'prefix.0.weight', 'prefix.1.weight' or 'prefix_0/kernel'."""
        rest = [name.removeprefix(prefix) for name in self.shapes if name.startswith(prefix)]
        return len({number for name in rest if (number := name.replace("/", ".").partition(".")[0]).isdigit()})


class Part(Archive):
    """Those arrays of another archive whose names begin with `prefix`, without it; but none of which the rest of the
    name fits the pattern `but`."""

    def __init__(self, whole: Archive, prefix: str = "", but: str = "(?!)") -> None:
        self.path, self._whole, self._start = whole.path, whole, prefix
        self.prefix = whole.prefix + prefix
        names = [name.removeprefix(prefix) for name in whole.shapes if name.startswith(prefix)]
        self.shapes = {name: whole.shapes[prefix + name] for name in names if not re.match(but, name)}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._whole[self._start + name]


def wanted_shapes(table: Mapping[str, Made]) -> dict[str, Shape]:
    """The shape of every array that tensors of a table are made of."""
    return {name: shape for made in table.values() for name, shape in zip(made.sources, made.shapes, strict=True)}


def random_arrays(table: Mapping[str, Made], seed: int = 0) -> dict[str, np.ndarray]:
    """An array of every name and shape that a table needs, for tiny checkpoints to test with."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in wanted_shapes(table).items()}
