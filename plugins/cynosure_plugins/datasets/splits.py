"""Which source split serves as which of ours, and what is held out where a source has too few."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from pydantic import BeforeValidator

from cynosure.core.contracts import Dataset
from cynosure.errors import DataError, unknown

Rows = TypeVar("Rows", bound=Iterable[Mapping[str, Any]])

SPLITS = ("train", "validation", "test")
NAMES = {
    "train": ("train", "training", "train2017"),
    "validation": ("validation", "valid", "val", "dev", "eval", "val2017"),
    "test": ("test", "testing"),
}
HOLD_OUT_AT_MOST = 1000
"""Rows that a share of the training data comes to at most; more must be asked for by number."""


def _share_or_rows(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 < value < 0.5 or (isinstance(value, int) and value >= 1)):
        raise ValueError("must be a share of the rows, above 0 and below 0.5, or a whole number of rows")
    return value


Holdout = Annotated[int | float, BeforeValidator(_share_or_rows)]
"""Training rows to hold out for each split that a source lacks: a share (`HOLD_OUT_AT_MOST` rows at most), or so many.
"""


class SplitDataset(Dataset, Generic[Rows]):
    """A dataset that reads each split once, when it is first asked for, and keeps its rows."""

    def __init__(self) -> None:
        self._rows: dict[str, Rows] = {}

    def rows(self, split: str) -> Rows:
        """Rows of 'train', 'validation' or 'test', with the columns of `info.fields`; DataError for other splits."""
        if split not in SPLITS:
            raise DataError(unknown("split", split, SPLITS))
        if split not in self._rows:
            self._rows[split] = self._read(split)
        return self._rows[split]

    @abstractmethod
    def _read(self, split: str) -> Rows:
        """The rows of a split. Raises DataError where there are none."""


def assign(available: Iterable[str]) -> dict[str, str]:
    """Our splits -> source splits, from their names.

    A lone split is training data whatever its name. With training and validation data alone, the official validation
    set becomes the test: choices are then made on a part held out of training, and never see the test.
    Raises DataError when no split looks like training data.
    """
    available = list(available)
    if len(available) == 1:
        return {"train": available[0]}
    found = {ours: next((n for n in names if n in available), None) for ours, names in NAMES.items()}
    given = {ours: theirs for ours, theirs in found.items() if theirs}
    if "train" not in given:
        raise DataError(f"none of the source's splits ({', '.join(available)}) is named train; say which with `splits`")
    if "validation" in given and "test" not in given:
        given["test"] = given.pop("validation")
    return given


def hold_out(identities: Iterable[str], absent: Sequence[str], holdout: float, seed: int) -> Mapping[str, np.ndarray]:
    """Sorted positions of the training rows with these identities for 'train' and every absent split; none in two.

    Those whose identities have the lowest hashes are held out: a row more or less moves one other at most from part to
    part, besides those by which the parts grow, so that grown or repaired data are not dealt out anew.
    """
    order = np.argsort([_fraction(identity.encode("utf-8", "surrogateescape"), seed) for identity in identities])
    count = len(order)
    each = int(holdout) if holdout >= 1 else min(HOLD_OUT_AT_MOST, max(1, round(holdout * count)))
    if absent and len(absent) * each >= count:
        raise DataError(
            f"{count} training rows are too few to hold out {' and '.join(absent)} data from; "
            "name rows for them with `splits`, or lower `holdout`"
        )
    parts = {split: order[i * each : (i + 1) * each] for i, split in enumerate(absent)}
    return {split: np.sort(part) for split, part in (parts | {"train": order[len(absent) * each :]}).items()}


def ending(path: str | Path) -> str:
    """What identifies a file wherever its folder lies: its name and its folder's."""
    return "/".join(Path(path).parts[-2:])


def hashed_split(identity: bytes, absent: Sequence[str], fraction: float, seed: int) -> str:
    """The split of a streamed row by its identity alone, so that no order, shard or resume moves it to another."""
    number = int(_fraction(identity, seed) / fraction)
    return absent[number] if number < len(absent) else "train"


def _fraction(identity: bytes, seed: int) -> float:
    """A hash in [0, 1]."""
    digest = hashlib.blake2b(identity, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def spread(count: int, limit: int | None) -> np.ndarray:
    """At most `limit` of `count` positions, evenly spread: sources are often sorted by class."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).astype(np.int64)
