"""Procedural scenes: exact answers for every built-in task, without a download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

from filelock import FileLock
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo, PartConfig
from cynosure.data.cache import cache_folder, writing_to
from cynosure.data.scenes import CLASSES, SceneRows, build_scenes
from cynosure.progress import Bar, current_progress
from cynosure_plugins.datasets.pixels import Size
from cynosure_plugins.datasets.splits import SPLITS, SplitDataset


class Scenes(SplitDataset[Sequence[Mapping[str, Any]]]):
    """Ray-cast scenes with panoptic maps, depth, captions and low-light copies, drawn once and kept on disk, read-only.

    Splits are scenes of different seeds, so they never share one, however many each has.
    """

    class Config(PartConfig):
        size: Size = 64
        """Pixels: the side of a square, or [H, W]; 16 or more."""
        train: int = Field(12288, ge=1)
        validation: int = Field(512, ge=1)
        test: int = Field(512, ge=1)
        seed: int = Field(0, ge=0)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo(
            name="scenes",
            fields=("image", "panoptic", "depth", "degraded", "caption"),
            classes=CLASSES,
            category_ids=tuple(range(1, len(CLASSES) + 1)),
        )

    def count(self, split: str) -> int:
        """Rows of a split, drawn or not."""
        return int(getattr(self.config, split))

    def _read(self, split: str) -> Sequence[Mapping[str, Any]]:
        config, count = self.config, getattr(self.config, split)
        seed = len(SPLITS) * config.seed + SPLITS.index(split)
        folder = cache_folder() / "scenes"
        with writing_to(folder), ExitStack() as shown:
            folder.mkdir(parents=True, exist_ok=True)
            # Under the lock one process of a run draws while the others wait for its scenes.
            shown.enter_context(FileLock(folder / ".lock"))
            bar: Bar | None = None
            drawn = 0

            def progress(done: int, total: int) -> None:
                nonlocal bar, drawn
                bar = bar or shown.enter_context(current_progress().bar(f"drawing scenes: {split}", total))
                bar.advance(done - drawn)
                drawn = done

            scenes = build_scenes(seed, count, config.size, cache_dir=folder, progress=progress)
        return cast("Sequence[Mapping[str, Any]]", SceneRows(scenes, config.size, self.info.fields))


@hookimpl
def cynosure_register(register: Any) -> None:
    register.dataset("scenes", Scenes)
