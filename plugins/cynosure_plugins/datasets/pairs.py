"""Pictures as they were taken and the good versions of them, in two folders: FiveK, LOL, Rendered-WB, your own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo, PartConfig
from cynosure.errors import DataError
from cynosure_plugins.datasets.pairing import (
    LAYOUTS,
    Folders,
    Layout,
    Pair,
    distinct_truths,
    find_folders,
    named_in,
    of_truths,
    pair_up,
)
from cynosure_plugins.datasets.pixels import Size, height_width
from cynosure_plugins.datasets.rows import LiveRows, StoredRows
from cynosure_plugins.datasets.splits import SPLITS, Holdout, SplitDataset, ending, hold_out, spread
from cynosure_plugins.datasets.store import key_of, read_all


class Pairs(SplitDataset[LiveRows | StoredRows]):
    """Rows with `degraded` and `image`, two pictures of one size that belong together by their names.

    A pair has one stem, or the names of Rendered-WB: `NAME_WB_PICSTYLE` belongs to `NAME_G_AS` (Set1), `NAME_WB` to
    `NAME` (Cube+); several inputs may share a truth. Pictures without a partner, pairs of different sizes and files
    that are damaged are named in one warning and left out (`rows.skipped`); DataError if none stays.

    Splits are folders around or inside those of the pairs, or lists of names; what is missing is held out of the
    training data, all inputs of a truth together. With training and validation folders alone, the latter are the test.
    Sources: MIT-Adobe FiveK (Bychkovsky et al. 2011), LOL (Wei et al. 2018), Rendered-WB (Afifi et al. 2019).
    """

    class Config(PartConfig):
        root: str
        layout: Literal["auto", "fivek", "lol", "rendered_wb", "folders"] = "auto"
        """Where pairs lie under the root: `Inputs_jpg` and `Experts_C`; `our485/low`, `our485/high` and `eval15`;
        `input` and `groundtruth`; or `low` and `high`, `input` and `target`, `inputs` and `targets`."""
        inputs: str | None = None
        """The folder of the pictures as they were taken, where it has another name; then `targets` is needed too."""
        targets: str | None = None
        """The folder of the good versions; it may be the one of `inputs`, with Rendered-WB's names."""
        expert: Literal["A", "B", "C", "D", "E"] = "C"
        """Of 'fivek': whose retouching is the truth."""
        lists: Mapping[Literal["validation", "test"], str] = {}
        """Split -> a text file under the root with the names of its pictures, one a line; not for splits in folders."""
        holdout: Holdout = 0.1
        """Part of the training truths held out (at most 1000), or how many, for a split without folders or list."""
        size: Size | None = None
        """Decode once and keep on disk at this size: the largest centred crop, antialiased; null decodes each time."""
        limit: int | None = Field(None, ge=1)
        """At most so many rows of each split."""
        seed: int = 0

        @model_validator(mode="after")
        def _both(self) -> Self:
            if (self.inputs is None) != (self.targets is None):
                raise ValueError("name both folders, inputs and targets, or neither")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.root = Path(config.root).expanduser()
        self._paired: dict[Folders, tuple[list[Pair], list[str]]] = {}

    @property
    def info(self) -> DatasetInfo:
        return DatasetInfo(name="pairs", fields=("degraded", "image"))

    def count(self, split: str) -> int:
        """Rows of a split, from the names of the files alone."""
        return len(spread(len(self._pairs(split)[0]), self.config.limit))

    def _read(self, split: str) -> LiveRows | StoredRows:
        title, size = f"{self.root.name} {split}", self.config.size
        pairs, left_out = self._pairs(split)
        pairs = [pairs[i] for i in spread(len(pairs), self.config.limit)]
        key = key_of("pairs", size, [pair.state() for pair in pairs])
        read = partial(_read_at, pairs, height_width(size) if size else None)
        if size is None:
            return LiveRows(title, key, len(pairs), read, left_out)
        fields = dict.fromkeys(self.info.fields, ((*height_width(size), 3), np.uint8))
        return StoredRows(title, key, len(pairs), lambda: read_all(len(pairs), read), fields, missing=left_out)

    def _pairs(self, split: str) -> tuple[list[Pair], list[str]]:
        """The pairs of a split, and sentences about the pictures left out, with the training data's in 'train'."""
        if split != "train" and split in self._folders:
            return self._paired_in(self._folders[split])
        if "train" not in self._folders:
            have = ", ".join(self._folders)
            raise DataError(f"'{self.root}' has pairs for {have} alone, and none to take {split} data from")
        pairs, left_out = self._paired_in(self._folders["train"])
        listed = {str(name): named_in(self.root / file, pairs) for name, file in self.config.lists.items()}
        taken = [pair for part in listed.values() for pair in part]
        if twice := next((pair for pair, times in Counter(taken).items() if times > 1), None):
            raise DataError(f"the `lists` of '{self.root}' both name '{twice.image}'; take it out of one of them")
        if split in listed:
            return listed[split], []
        gone = {pair.image for pair in taken}
        truths = [truth for truth in distinct_truths(pairs) if truth not in gone]
        absent = [name for name in SPLITS[1:] if name not in self._folders and name not in listed]
        part = hold_out(map(ending, truths), absent, self.config.holdout, self.config.seed)[split]
        return of_truths(pairs, {truths[i] for i in part}), left_out if split == "train" else []

    def _paired_in(self, folders: Folders) -> tuple[list[Pair], list[str]]:
        if folders not in self._paired:
            self._paired[folders] = pair_up(folders)
        return self._paired[folders]

    @cached_property
    def _folders(self) -> Mapping[str, Folders]:
        config = self.config
        layouts = LAYOUTS.get(config.layout) or [layout for each in LAYOUTS.values() for layout in each]
        if config.inputs is not None and config.targets is not None:
            splits = layouts[0].splits if config.layout != "auto" else None
            layouts = [Layout(config.inputs, config.targets, splits)]
        layouts = [replace(layout, targets=layout.targets.replace("{expert}", config.expert)) for layout in layouts]
        found = find_folders(self.root, layouts)
        if both := next((name for name in config.lists if name in found), None):
            raise DataError(
                f"'{self.root}' has {both} data in folders of its own; take `lists.{both}` out of the recipe"
            )
        return found


def _read_at(pairs: Sequence[Pair], size: tuple[int, int] | None, index: int) -> dict[str, Any]:
    return pairs[index].read(size)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.dataset("pairs", Pairs)
