"""Contract of what reads the checkpoints of other systems."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from cynosure.core.contracts.config import PartConfig
from cynosure.core.records import Imported


class Importer(ABC):
    """Reads the published checkpoints of another system, for `cynosure convert`. Built as `Importer(config)`."""

    Config: ClassVar[type[PartConfig]]

    @abstractmethod
    def read(self, files: Sequence[Path]) -> Imported:
        """The files of one model, in any order, perhaps not all of them; tensors stay on disk until they are made.

        Code inside a file never runs: no pickles. Raises CheckpointError with everything that is wrong: a file that
        cannot be read or is of another system, names missing or left over, shapes that do not fit.
        """
