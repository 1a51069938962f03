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

from cynosure.core.records import (
    Batch,
    Codes,
    CodeSpec,
    Encoded,
    Example,
    Imported,
    Prediction,
    Quantized,
    SampleSettings,
    Segment,
    SoftTargets,
)
from cynosure.errors import CynosureError


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

    image uint8 [H, W, 3]; panoptic int [H, W, 2] = (class, instance), class 0 is void; crowd int [H, W], the class of
    crowds that panoptic leaves void, 0 elsewhere; depth float32 [H, W] metres, 0 where missing; low_light uint8
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


class Quantizer(nn.Module, ABC):
    """Vectors to codes and back. Built as `Quantizer(config)`; computes in float32 whatever the precision around it.

    One that learns from statistics collects them in `forward` and changes its codebook in `learn`: all micro-batches of
    an optimizer step are then quantized alike, and `accumulate: n` gives the codebook that n times the batch gives.
    """

    Config: ClassVar[type[PartConfig]]
    vocab_size: int
    dim: int
    depth: int
    positions: int | None = None
    """N, of a quantizer that takes no other number of vectors."""

    @abstractmethod
    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> straight-through vectors, ids [B, L, D], losses. Changes no state that is saved.

        L is N unless `segments` says otherwise.
        """

    @abstractmethod
    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, L, D] -> vectors [B, N, d]."""

    def segments(self, positions: int) -> tuple[Segment, ...]:
        """What the ids of `positions` vectors are; one code a vector unless the quantizer says otherwise."""
        return (Segment("codes", positions, self.depth, self.vocab_size),)

    def code_vectors(self) -> torch.Tensor:
        """Where a vector is the sum of the codewords of its D codes: [D, K, d], or [1, K, d] if all depths share them.

        Raises CynosureError for a quantizer whose vectors are made otherwise.
        """
        if self.depth > 1 or self.positions is not None:
            raise CynosureError(
                f"{type(self).__name__} has no codeword for a single code: let the prior learn a table of its own "
                "(model.prior.embedding: separate)."
            )
        device = next((tensor.device for tensor in (*self.parameters(), *self.buffers())), None)
        return self.lookup(torch.arange(self.vocab_size, device=device)[None, :, None])

    def soft_codes(
        self, vectors: torch.Tensor, temperature: float = 1.0, stochastic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids int64 [B, L, D] of vectors [B, N, d] and how likely each code was [B, L, D, K]; see SoftTargets.

        Raises CynosureError for a quantizer without probabilities.
        """
        raise CynosureError(f"{type(self).__name__} has no soft codes: use quantizer rq, or no soft_temperature.")

    def learn(self) -> None:
        """Learn from the vectors that `forward` saw in training mode since the last call, those of all processes.

        Called once after every optimizer step that trains the tokenizer. Raises TrainingError, before any state
        changes, when the vectors were not finite.
        """


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

    @property
    def code_positions(self) -> int:
        """N, how many vectors a code stands for; L unless the quantizer writes several positions a vector."""
        return self.spec.length

    @abstractmethod
    def encode(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> Encoded:
        """Targets [B, C, H, W] and the inputs -> codes, vectors [B, L, d], losses."""

    def bottleneck(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """The vectors [B, N, d] that are quantized; CynosureError for a tokenizer that does not show them."""
        raise CynosureError(f"{type(self).__name__} has no soft codes: use no soft_temperature.")

    @torch.no_grad()
    def soft_codes(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str, soft: SoftTargets) -> Codes:
        """What `encode` writes, with the probabilities of all codes."""
        vectors = self.bottleneck(targets, inputs, task)
        ids, probabilities = self.quantizer.soft_codes(vectors, soft.temperature, soft.stochastic)
        return Codes(ids, self.spec, probabilities)

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

    def penalties(self, vectors: torch.Tensor, task: str) -> dict[str, torch.Tensor]:
        """Named scalar losses of stage `codes` that ask for more than the outputs; vectors [B, N, d]."""
        return {}

    def last_layer(self, task: str) -> nn.Module | None:
        """The layer that writes the task's raw outputs, at whose `weight` losses are balanced; None: not known."""
        return None


class Criterion(nn.Module, ABC):
    """A loss of stage `codes` that needs a network of its own. Built as `Criterion(config, shapes)`.

    Its parameters are trained, averaged and saved with the model's; predicting needs neither them nor any file.
    """

    Config: ClassVar[type[PartConfig]]

    @abstractmethod
    def forward(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        task: str,
        reconstruction: torch.Tensor,
        last: nn.Parameter | None,
    ) -> dict[str, torch.Tensor]:
        """Raw outputs and targets [B, C, H, W], the task's loss with those of the criteria before this one, the weight
        of `Base.last_layer` -> named scalar losses. One backward pass serves model and criterion, all of whose
        parameters take part in every call; statistics of norms aside, nothing changes."""

    def end_step(self) -> None:
        """Called once after every optimizer step that trains the criterion."""


class Encoder(nn.Module, ABC):
    """Context for a prior. Built as `Encoder(config, shapes)`."""

    Config: ClassVar[type[PartConfig]]
    dim: int
    starts_trained: bool = False
    """Whether it begins with somebody's weights, which `train.prior.warm_start` then leaves alone."""
    vocab_size: int | None = None
    """How many tokens there are, where every vector stands for one and says nothing of the others (see `tokens`)."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """Inputs -> context vectors [B, N, d]."""

    def tokens(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """What the vectors stand for, int64 [B, N] in [0, vocab_size), for a prior that learns to predict it too.

        Raises CynosureError for an encoder whose `vocab_size` is None.
        """
        raise CynosureError(f"{type(self).__name__} reads no tokens one by one: use encoder text with depth 0.")


class Prior(nn.Module, ABC):
    """The code language model p(z | x). Built as `Prior(config, shapes, encoder)`; encoder None: unconditional."""

    Config: ClassVar[type[PartConfig]]
    soft_targets: SoftTargets | None = None
    """Which probabilities the codes given to `loss` in training carry; None: none."""
    takes_steps: bool = False
    """Whether it writes codes in rounds, whose number `SampleSettings.steps` is."""

    def attach(self, tokenizer: Tokenizer) -> None:
        """Called once, when the model is put together, for priors that read code vectors (`Quantizer.code_vectors`).

        What is kept of the tokenizer must not become a submodule: its weights are saved, and trained, elsewhere.
        """

    @abstractmethod
    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        """Named scalar losses of the codes given the inputs, in nats per code."""

    @abstractmethod
    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        """Codes drawn given the inputs of B rows; a row's codes depend on its inputs and its own seed (int64 [B]) only,
        never on the rows beside it."""


class Importer(ABC):
    """Reads the published checkpoints of another system, for `cynosure convert`. Built as `Importer(config)`."""

    Config: ClassVar[type[PartConfig]]

    @abstractmethod
    def read(self, files: Sequence[Path]) -> Imported:
        """The files of one model, in any order, perhaps not all of them; tensors stay on disk until they are made.

        Code inside a file never runs: no pickles. Raises CheckpointError with everything that is wrong: a file that
        cannot be read or is of another system, names missing or left over, shapes that do not fit.
        """
