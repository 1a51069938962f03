"""Rows of sources too large for the disk: read in passing, shared among ranks, shuffled in a buffer, resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from cynosure.errors import DataError
from cynosure_plugins.datasets.splits import hashed_split
from cynosure_plugins.datasets.store import Row

log = logging.getLogger("cynosure.data")


@dataclass(frozen=True)
class Held:
    """Tells the rows of `split` where the splits `absent` are held out of a stream; see `hashed_split`."""

    split: str
    absent: Sequence[str]
    fraction: float
    seed: int
    identity: Callable[[Mapping[str, Any]], bytes]

    def __call__(self, raw: Mapping[str, Any]) -> bool:
        return hashed_split(self.identity(raw), self.absent, self.fraction, self.seed) == self.split


class StreamRows(Iterable[Row]):
    """Rows of one split of a `datasets.IterableDataset`; `skipped` has a sentence about every row left out so far.

    `read` makes a row of a raw one and its position (DataError: it is left out), `belongs` tells the rows of this
    split (None: all are). `buffer` rows are shuffled at a time, by `seed`; 0 keeps the source's order.
    """

    def __init__(
        self,
        title: str,
        source: Any,
        read: Callable[[Mapping[str, Any], int], Row],
        belongs: Callable[[Mapping[str, Any]], bool] | None = None,
        buffer: int = 0,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.title, self.source, self.read, self.belongs = title, source, read, belongs
        self.buffer, self.seed, self.limit = buffer, seed, limit
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[Row]:
        """One pass over every readable row, always in the same order."""
        found = False
        for position, raw in enumerate(self._raw(0, 0, 1, self.seed)):
            if (row := self._decoded(raw, position)) is not None:
                found = True
                yield row
        if not found:
            raise self._nothing()

    def stream(self, rank: int = 0, world: int = 1, seed: int = 0, skip: int = 0) -> Iterator[Row]:
        """Rows for ever, epoch after epoch, each shuffled anew: this rank's share, without the first `skip` rows.

        A pure function of its arguments: a resumed run gets the rows that it would have got. The next readable row
        takes the place of one that is not, so that `skip` counts rows without decoding them.
        """
        waiting = 0  # unreadable rows whose place the next readable one takes, if need be in the next epoch
        for epoch in count():
            seen = tried = readable = 0
            for position, raw in enumerate(self._raw(epoch, rank, world, seed)):
                seen += 1
                if skip > 0:
                    skip -= 1
                    continue
                row = self._decoded(raw, position)
                tried += 1
                waiting += 1
                if row is not None:
                    readable += 1
                    yield from [row] * waiting
                    waiting = 0
            if not seen and world > 1:
                raise DataError(
                    f"{self.title} has no row for process {rank} of {world}: give it more rows (`limit`) or start "
                    "fewer processes"
                )
            if not seen or (tried == seen and not readable):
                raise self._nothing()

    def _raw(self, epoch: int, rank: int, world: int, seed: int) -> Iterator[Mapping[str, Any]]:
        from datasets.distributed import split_dataset_by_node

        source, belongs = self.source, self.belongs
        if self.limit is not None:  # before rows are mixed, so that every epoch has the same ones
            source, belongs = (source.filter(belongs) if belongs else source).take(self.limit), None
        if self.buffer:
            source = source.shuffle(seed=seed, buffer_size=self.buffer)
        if world > 1:
            source = split_dataset_by_node(source, rank=rank, world_size=world)
        if self.buffer:
            source.set_epoch(epoch)  # of the dataset that is read: splitting makes another one, at epoch 0
        return filter(belongs, source)

    def _decoded(self, raw: Mapping[str, Any], position: int) -> Row | None:
        try:
            return self.read(raw, position)
        except DataError as error:
            if str(error) not in self.skipped:
                self.skipped.append(str(error))
                log.warning("%s: skipped: %s", self.title, error)
            return None

    def _nothing(self) -> DataError:
        return DataError(f"{self.title} holds no readable row" + (f": {self.skipped[0]}" if self.skipped else ""))
