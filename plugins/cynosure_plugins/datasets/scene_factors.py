"""Scenes of one object with known factors, each combination at most once, to measure disentanglement on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from filelock import FileLock
from pydantic import Field, model_validator

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo, PartConfig
from cynosure.data.cache import cache_folder, writing_to
from cynosure.data.scenes.factors import COUNT, factors_of, render_factors
from cynosure.data.scenes.render import image_size
from cynosure.progress import current_progress
from cynosure.train.checkpoint import write_whole
from cynosure_plugins.datasets.pixels import Size
from cynosure_plugins.datasets.splits import SPLITS, SplitDataset

VERSION = 1
"""Raise it with every change to what `render_factors` returns: it is part of the name of a cached file."""
AT_ONCE = 500


class SceneFactors(SplitDataset[Sequence[Mapping[str, Any]]]):
    """`factors` int64 [7]: shape, color, size, side, distance, sky, ground. Drawn once and kept on disk.

    The splits share the 36,000 combinations out at random, so that no scene is in two of them.
    """

    class Config(PartConfig):
        size: Size = 32
        """Pixels: the side of a square, or [H, W]; 16 or more."""
        train: int = Field(30000, ge=1)
        validation: int = Field(1000, ge=1)
        test: int = Field(5000, ge=1)
        seed: int = Field(0, ge=0)

        @model_validator(mode="after")
        def _enough(self) -> Self:
            if self.train + self.validation + self.test > COUNT:
                raise ValueError(f"there are {COUNT} scenes: train, validation and test may not add up to more")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self._order = np.random.default_rng(config.seed).permutation(COUNT)

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo(name="scene_factors", fields=("image", "factors"))

    def _read(self, split: str) -> Sequence[Mapping[str, Any]]:
        counts = [self.count(name) for name in SPLITS]
        start = sum(counts[: SPLITS.index(split)])
        scenes = self._order[start : start + self.count(split)]
        size = image_size(self.config.size)
        name = f"factors-v{VERSION}-seed{self.config.seed}-{start}+{len(scenes)}-{size[0]}x{size[1]}.npy"
        return _Rows(_pictures(name, scenes, size), factors_of(scenes))

    def count(self, split: str) -> int:
        return int(getattr(self.config, split))


class _Rows(Sequence[Mapping[str, Any]]):
    """Rows of pictures uint8 [n, H, W, 3] and factors int64 [n, S]."""

    def __init__(self, pictures: np.ndarray, factors: np.ndarray) -> None:
        self._pictures, self._factors = pictures, factors

    def __len__(self) -> int:
        return len(self._factors)

    @overload
    def __getitem__(self, row: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, row: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        if isinstance(row, slice):
            return _Rows(self._pictures[row], self._factors[row])
        return {"image": np.asarray(self._pictures[row]), "factors": self._factors[row]}


def _pictures(name: str, scenes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pictures uint8 [n, H, W, 3] of scenes int64 [n], memory-mapped; drawn by the first process that asks."""
    file = cache_folder() / "scenes" / name
    with writing_to(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.parent / ".lock"):
            if not file.exists():
                write_whole(file, lambda part: _draw(part, scenes, size))
    return np.load(file, mmap_mode="r")


def _draw(file: Path, scenes: np.ndarray, size: tuple[int, int]) -> None:
    pictures = np.lib.format.open_memmap(file, "w+", np.uint8, (len(scenes), *size, 3))
    with current_progress().bar("drawing scenes of known factors", len(scenes)) as bar:
        for start in range(0, len(scenes), AT_ONCE):
            part = scenes[start : start + AT_ONCE]
            pictures[start : start + len(part)] = render_factors(factors_of(part), size)
            bar.advance(len(part))
    pictures.flush()


@hookimpl
def cynosure_register(register: Any) -> None:
    register.dataset("scene_factors", SceneFactors)
