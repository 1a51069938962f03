"""Contracts of what a model learns from and is measured by: datasets, tasks, protocols. Shapes: B batch, C channels,
S factors, H W pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from cynosure.core.contracts.config import PartConfig
from cynosure.core.records import Batch, Example, Prediction
from cynosure.errors import CynosureError


class DatasetInfo(BaseModel):
    """What a dataset says about itself: `classes` are (name, is_thing) of class ids 1, 2, ... (0 is void)."""

    model_config = ConfigDict(frozen=True)
    name: str
    fields: tuple[str, ...]
    classes: tuple[tuple[str, bool], ...] = ()
    category_ids: tuple[int, ...] = ()


class Dataset(ABC):
    """Rows by split. A row is a dict of the fields in `info.fields`, in these canonical forms:

    image uint8 [H, W, 3]; panoptic int [H, W, 2] = (class, instance), class 0 is void; crowd int [H, W], the class of
    crowds that panoptic leaves void, 0 elsewhere; depth float32 [H, W] metres, 0 where missing; degraded uint8
    [H, W, 3]; caption str; label int; factors int64 [S]; image_id int and file_name str, the authors' name of it.
    """

    Config: ClassVar[type[PartConfig]]

    @property
    @abstractmethod
    def info(self) -> DatasetInfo: ...

    @abstractmethod
    def rows(self, split: str) -> Sequence[Mapping[str, Any]] | Iterable[Mapping[str, Any]]:
        """Rows of 'train', 'validation' or 'test'; with `__len__` and `__getitem__` unless the dataset streams.

        Raises DataError when the split does not exist or holds no row.
        """

    def count(self, split: str) -> int | None:
        """Rows of a split, found without reading them, damaged ones included; None where that cannot be."""
        return None


class Task(ABC):
    """A vision task in three small functions (prepare, loss, decode) and metadata.

    Built as `Task(config, image_size)`, with image_size (H, W) in pixels.
    """

    Config: ClassVar[type[PartConfig]]
    fields: tuple[str, ...]
    """Columns that a training row must have; what the class says is what every dataset of the task must have."""
    inputs: tuple[str, ...] = ("image",)
    """The columns among `fields` that are known when predicting; none where pictures are made out of nothing."""
    one_to_many: ClassVar[bool] = False
    """Whether several different answers are right for one input."""
    bits: ClassVar[Literal[8, 16]] = 8
    """Bits a channel of the pictures that `prepare` and `restore` take: with 16 those of 16-bit sources are uint16."""

    name: str
    config: PartConfig
    image_size: tuple[int, int]

    @classmethod
    def configure(cls, options: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, Any]:
        """Options completed from the dataset, such as its classes; the result is saved with the run."""
        return options

    def at_strength(self, strength: float) -> Self:
        """The same task with another `strength`, an option that those have whose answers may be partial: 0 leaves the
        input as it is, 1 is the whole answer. `decode` and `restore` read it, training does not.

        Raises CynosureError for a task without that option, and for a value that it does not take.
        """
        options = type(self.config)
        if "strength" not in options.model_fields:
            raise CynosureError(f"task {self.name} knows no strength, its answers are always whole: leave strength out")
        other = copy(self)
        try:
            other.config = options.model_validate({**self.config.model_dump(), "strength": strength})
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Input ")
            raise CynosureError(f"strength {reason}, it is {strength}") from None
        return other

    @property
    @abstractmethod
    def channels(self) -> int:
        """C: channels of the raw output and of `encode_targets`."""

    @abstractmethod
    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        """One row -> one example of fixed shapes. Without the target columns, an example without targets."""

    @abstractmethod
    def encode_targets(self, batch: Batch) -> torch.Tensor:
        """Targets as the oracle sees them, float [B, C, H, W]."""

    @abstractmethod
    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Named scalar losses of raw outputs [B, C, H, W]; their sum is minimised."""

    @abstractmethod
    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        """Raw outputs [B, C, H, W] -> answers at the model's resolution."""

    @abstractmethod
    def truth(self, batch: Batch) -> list[Prediction]:
        """The targets in the form that `decode` gives, for metrics and pictures."""

    @abstractmethod
    def draw(self, prediction: Prediction) -> np.ndarray:
        """An answer as a picture, uint8 [H, W, 3]."""

    @property
    def judgeable(self) -> bool:
        """Whether raw outputs and `encode_targets` are of one kind, so that criteria can compare them."""
        return True

    def comparable(self, prediction: Prediction, truth: Prediction) -> Prediction:
        """What of an answer can be compared with the truth, for pictures that show both; by default all of it."""
        return prediction

    def describe(self, inputs: Mapping[str, Any]) -> str:
        """What one row asks for, in words, where it is no picture that asks: a caption, the name of a class."""
        return ""

    @abstractmethod
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Registered metrics by name with their options, e.g. {"panoptic_quality": {"classes": ...}}."""

    @abstractmethod
    def baseline(self, batches: Iterator[Batch]) -> Callable[[Batch], list[Prediction]]:
        """The trivial answer learnt from training batches (mean depth, grey, largest class), to be beaten."""

    @abstractmethod
    def restore(self, prediction: Prediction, image: np.ndarray) -> Prediction:
        """The answer at the resolution of the original picture, uint8 [H, W, 3]."""

    @abstractmethod
    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """Write the answer to `path` (and files beside it) in a format that the task's users have tools for."""

    def network(self, base: nn.Module) -> nn.Module | None:
        """The whole way from a picture to the picture that answers it, for `cynosure export`; None where there is none.

        It takes and gives float32 [1, 3, H, W] in [0, 1], of any H and W, and does what `prepare`, `decode` and
        `restore` do, in operations that torch.export can trace. `base` maps the input 'image' of `prepare`, float32
        [1, 3, h, w] at `image_size`, to raw outputs [1, C, h, w].
        """
        return None


class Protocol(ABC):
    """A published way to measure a task. Built as `Protocol(config, task)`.

    For each row evaluation calls `row`, the task's `prepare`, `example`, the model, the task's `decode` and `answer`;
    the metrics compare what `answer` and `truth` give. The task's own size and truth play no part.
    """

    Config: ClassVar[type[PartConfig]]
    tasks: ClassVar[tuple[str, ...]]
    """The registered tasks that it measures; tasks that derive from them are measured too."""
    fields: ClassVar[tuple[str, ...]] = ()
    """Columns that rows must have, beside those that the task needs."""
    sampling: ClassVar[Mapping[str, Any]] = {}
    """How codes are sampled (fields of SampleSettings); what it leaves out is as in the recipe."""

    def __init__(self, config: Any, task: Task) -> None:
        self.config, self.task = config, task

    def row(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row as the model is shown it, for example a crop of it. DataError for a row that cannot be measured."""
        return row

    def example(self, example: Example) -> Example:
        """The prepared example, for example on another scale."""
        return example

    @abstractmethod
    def answer(self, prediction: Prediction, row: Mapping[str, Any]) -> Prediction:
        """What the task's `decode` gave for the dataset's `row`, at the size at which answers are compared."""

    @abstractmethod
    def truth(self, row: Mapping[str, Any]) -> Prediction:
        """What the answer to the dataset's `row` is compared with."""

    @abstractmethod
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Registered metrics by name with their options."""

    def save(self, answer: Prediction, row: Mapping[str, Any], number: int, folder: Path) -> Any:
        """Write the answer to the `number`-th row; returns what `index` needs to know of it, as JSON values."""
        answer.save(folder / f"{number:06d}.png")

    def index(self, saved: Sequence[Any], folder: Path) -> None:  # noqa: B027
        """Write what lists all saved answers, if the format has such a file; `saved` is in the order of the rows."""
