"""The contracts between parts: abstract classes that a plugin implements, once and finally.

Every part has a nested pydantic `Config` and is built as `Part(config, ...)` with the arguments its contract names.
Shapes: B batch, N patches, L code length, D depth, K vocabulary, d width, C channels, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from cynosure.core.records import Batch, Codes, CodeSpec, Encoded, Example, Prediction, Quantized, SampleSettings


class PartConfig(BaseModel):
    """Base of every nested `Config`: unknown options are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetInfo(BaseModel):
    """What a dataset says about itself: `classes` are (name, is_thing) of class ids 1, 2, ... (0 is void)."""

    model_config = ConfigDict(frozen=True)
    name: str
    fields: tuple[str, ...]
    classes: tuple[tuple[str, bool], ...] = ()
    category_ids: tuple[int, ...] = ()


class Dataset(ABC):
    """Rows by split. A row is a dict of the fields in `info.fields`, in these canonical forms:

    image uint8 [H, W, 3]; panoptic int [H, W, 2] = (class, instance), class 0 is void; depth float32 [H, W] metres,
    0 where missing; low_light uint8 [H, W, 3]; caption str; label int.
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


class Task(ABC):
    """A vision task in three small functions (prepare, loss, decode) and metadata.

    Built as `Task(config, image_size)`, with image_size (H, W) in pixels.
    """

    Config: ClassVar[type[PartConfig]]
    fields: ClassVar[tuple[str, ...]]
    """Columns that a training row must have; the first ones are all that prediction needs (see `inputs`)."""
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    """The columns among `fields` that are known when predicting."""
    one_to_many: ClassVar[bool] = False
    """Whether several different answers are right for one input."""

    name: str
    config: PartConfig
    image_size: tuple[int, int]

    @classmethod
    def configure(cls, options: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, Any]:
        """Options completed from the dataset, such as its classes; the result is saved with the run."""
        return options

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


class Quantizer(nn.Module, ABC):
    """Vectors to codes and back. Built as `Quantizer(config)`; computes in float32 whatever the precision around it."""

    Config: ClassVar[type[PartConfig]]
    vocab_size: int
    dim: int
    depth: int

    @abstractmethod
    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> straight-through vectors, ids [B, N, D], losses. In training mode it may learn."""

    @abstractmethod
    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, N, D] -> vectors [B, N, d]."""


class Tokenizer(nn.Module, ABC):
    """The guiding-code oracle. Built as `Tokenizer(config, shapes, quantizer)`."""

    Config: ClassVar[type[PartConfig]]
    quantizer: Quantizer

    @property
    @abstractmethod
    def spec(self) -> CodeSpec: ...

    @property
    def code_dim(self) -> int:
        return self.quantizer.dim

    @abstractmethod
    def encode(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> Encoded:
        """Targets [B, C, H, W] and the inputs -> codes, vectors [B, L, d], losses."""

    def vectors(self, codes: Codes) -> torch.Tensor:
        """Codes -> vectors [B, L, d]."""
        return self.quantizer.lookup(codes.ids)

    def forward(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> Encoded:
        return self.encode(targets, inputs, task)


class Base(nn.Module, ABC):
    """The base model f(x, z). Built as `Base(config, shapes)`."""

    Config: ClassVar[type[PartConfig]]

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        """Inputs and code vectors [B, L, d] (all-zero rows where a code is dropped) -> raw outputs [B, C, H, W]."""


class Encoder(nn.Module, ABC):
    """Context for a prior. Built as `Encoder(config, shapes)`."""

    Config: ClassVar[type[PartConfig]]
    dim: int

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """Inputs -> context vectors [B, N, d]."""


class Prior(nn.Module, ABC):
    """The code language model p(z | x). Built as `Prior(config, shapes, encoder)`; encoder None: unconditional."""

    Config: ClassVar[type[PartConfig]]

    @abstractmethod
    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        """Named scalar losses of the codes given the inputs, in nats per code."""

    @abstractmethod
    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        """Codes drawn given the inputs of B rows; a row's codes depend on its inputs and its own seed (int64 [B]) only,
        never on the rows beside it."""
