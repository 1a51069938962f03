"""Records that travel between the parts. Frozen; tensors inside are never changed in place.

Shapes: B batch, L code length, D depth, K vocabulary, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cynosure.errors import ConfigError, Problem

if TYPE_CHECKING:
    from cynosure.core.contracts import Task


@dataclass(frozen=True)
class Example:
    """One sample. Values are numpy arrays (images float32 [C, H, W]); `key` names the row and seeds its randomness."""

    inputs: Mapping[str, Any]
    targets: Mapping[str, Any]
    key: int = 0


class Inputs(dict[str, Any]):
    """What a task gives a batch, by name; the name of anything else is an error that says which parts do not fit."""

    def __init__(self, task: str, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.task = task

    def __missing__(self, name: str) -> Any:
        given = ", ".join(self) or "no input at all"
        text = (
            f"a part of it reads '{name}', but task '{self.task}' gives {given}: choose a base, a tokenizer and an "
            "encoder that read what the task gives (`cynosure plugins list`)."
        )
        raise ConfigError([Problem("", "model", text)])


@dataclass(frozen=True)
class Batch:
    """Examples of one task, stacked.

    `inputs` and `targets` map names to tensors [B, ...] (text stays a list of B strings), `keys` is int64 [B],
    `valid` is bool [B] and False where a row only pads the batch. `codes` holds cached oracle ids int64 [B, L, D].
    """

    task: str
    inputs: Mapping[str, Any]
    targets: Mapping[str, Any]
    keys: torch.Tensor
    valid: torch.Tensor
    codes: torch.Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", Inputs(self.task, self.inputs))

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""

        def move(values: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in values.items()}

        codes = None if self.codes is None else self.codes.to(device)
        return Batch(
            self.task, move(self.inputs), move(self.targets), self.keys.to(device), self.valid.to(device), codes
        )


@dataclass(frozen=True)
class Segment:
    """A run of positions that share one vocabulary: `length` L positions of `depth` D codes out of `vocab_size` K.

    `sizes` are the K of each depth where they differ; `vocab_size` is then the largest.
    """

    name: str
    length: int
    depth: int
    vocab_size: int
    sizes: tuple[int, ...] = ()

    @property
    def limits(self) -> tuple[int, ...]:
        """K by depth."""
        return self.sizes or (self.vocab_size,) * self.depth


@dataclass(frozen=True)
class CodeSpec:
    """What a code looks like: one segment for most systems, several for Make-A-Scene (scene, then image).

    `grid` is the (rows, columns) that the positions of the last segment stand for, when they stand for one.
    """

    segments: tuple[Segment, ...]
    grid: tuple[int, int] | None = None

    @property
    def length(self) -> int:
        return sum(s.length for s in self.segments)

    @property
    def depth(self) -> int:
        return max(s.depth for s in self.segments)

    @property
    def vocab_size(self) -> int:
        return max(s.vocab_size for s in self.segments)

    def limits(self) -> torch.Tensor:
        """K of every code, int64 [L, D]; 1 where a segment is less deep than the deepest, whose code is then 0."""
        rows = [s.limits + (1,) * (self.depth - s.depth) for s in self.segments for _ in range(s.length)]
        return torch.tensor(rows)

    @property
    def real(self) -> int:
        """How many of the L * D codes there are; losses of priors are means over them. At least 1."""
        return max(1, sum(s.length * sum(limit > 1 for limit in s.limits) for s in self.segments))


@dataclass(frozen=True)
class Codes:
    """Discrete guiding codes: `ids` int64 [B, L, D], each in [0, K) of its segment in `spec`.

    `probabilities` [B, L, D, K], for a prior that asked for them (`Prior.soft_targets`): how likely each code was.
    """

    ids: torch.Tensor
    spec: CodeSpec
    probabilities: torch.Tensor | None = None

    def __post_init__(self) -> None:
        wanted = (self.spec.length, self.spec.depth)
        if self.ids.ndim != 3 or tuple(self.ids.shape[1:]) != wanted:
            raise ValueError(f"codes must have shape [B, {wanted[0]}, {wanted[1]}], not {list(self.ids.shape)}")

    def entropy(self) -> torch.Tensor:
        """Of the probabilities, mean over codes, in nats: what a loss against them cannot fall below. 0 without any."""
        if self.probabilities is None:
            return torch.zeros((), device=self.ids.device)
        return torch.special.entr(self.probabilities).sum(-1).mean()


@dataclass(frozen=True)
class SoftTargets:
    """Codes as probabilities softmax(-distance² / temperature); `stochastic`: the ids are drawn from them too."""

    temperature: float
    stochastic: bool


@dataclass(frozen=True)
class Quantized:
    """Straight-through `vectors` [B, N, d], `ids` int64 [B, N, D], scalar `losses` by name, `usage` int64 [K]."""

    vectors: torch.Tensor
    ids: torch.Tensor
    losses: Mapping[str, torch.Tensor]
    usage: torch.Tensor


@dataclass(frozen=True)
class Encoded:
    """What a tokenizer made of a batch: codes, their vectors [B, L, d] (with gradient), losses, statistics to log."""

    codes: Codes
    vectors: torch.Tensor
    losses: Mapping[str, torch.Tensor]
    stats: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class StepOutput:
    """`loss` is a scalar to minimise; `logs` are detached scalars to report."""

    loss: torch.Tensor
    logs: Mapping[str, torch.Tensor]


def by_depth(value: float | tuple[float, ...] | None) -> tuple[float, ...]:
    """A setting as the tuple that may be given instead of one value for all depths; empty for None."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True)
class SampleSettings:
    """How a prior writes codes.

    temperature: 0 takes the most likely code; top_k, top_p: keep the k best, or the smallest set with probability p,
    a tuple by depth;
    guidance: classifier-free guidance scale (1 is off); steps: rounds of an iterative prior; `known` int64 [B, L, D]
    fixes codes where it is >= 0 and leaves -1 to the prior (editing).
    """

    temperature: float = 1.0
    top_k: int | tuple[int, ...] | None = None
    top_p: float | tuple[float, ...] | None = None
    guidance: float = 1.0
    steps: int | None = None
    known: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < inf:
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if any(k < 1 for k in by_depth(self.top_k)):
            raise ValueError(f"top_k must be 1 or more, not {self.top_k}")
        if any(not 0 < p <= 1 for p in by_depth(self.top_p)):
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if not 0 <= self.guidance < inf:
            raise ValueError(f"guidance must be 0 or more, not {self.guidance}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be 1 or more, not {self.steps}")

    def at_depth(self, depth: int) -> tuple[int | None, float | None]:
        """top_k and top_p of one depth, 0 first."""
        top_k = self.top_k[depth] if isinstance(self.top_k, tuple) else self.top_k
        return top_k, self.top_p[depth] if isinstance(self.top_p, tuple) else self.top_p


@dataclass(frozen=True)
class Prediction:
    """One answer: arrays by name (the task says which), the codes [L, D] behind it, and the task that reads them."""

    task: Task
    values: Mapping[str, np.ndarray]
    codes: np.ndarray | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def image(self) -> np.ndarray:
        """The answer as a picture, uint8 [H, W, 3]."""
        return self.task.draw(self)

    def save(self, path: str | Path) -> list[Path]:
        """Write the answer in the task's own format; returns every file written."""
        return self.task.save(self, Path(path))

    def with_values(self, values: Mapping[str, np.ndarray]) -> Prediction:
        return replace(self, values=values)


@dataclass(frozen=True)
class Shapes:
    """What parts must know of each other before they are built.

    image_size: (H, W) pixels the model works at; channels: task name -> C of its raw output and oracle input;
    spec and code_dim: the tokenizer's code and the width d of one code vector (None and 0 where there are no codes);
    code_positions: N, how many vectors a code stands for, where that is not its length L (`Tokenizer.code_positions`).
    """

    image_size: tuple[int, int]
    channels: Mapping[str, int]
    spec: CodeSpec | None = None
    code_dim: int = 0
    code_positions: int = 0

    @property
    def positions(self) -> int:
        """N, how many code vectors the base sees; 0 where there are no codes."""
        return self.code_positions or (self.spec.length if self.spec else 0)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape and dtype are known and whose values are made when they are written."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Imported:
    """What an importer made of a checkpoint of another system.

    `recipe` holds the fields of a recipe that the files decide; without a base or a prior among the files it leaves
    these out. `tensors` are named as in `GuidedModel.state_dict()`. `notes` are sentences for the user.
    """

    recipe: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> list[str]:
        """Which of 'tokenizer', 'base' and 'prior' there are tensors of."""
        found = {name.partition(".")[0] for name in self.tensors}
        return [part for part in ("tokenizer", "base", "prior") if part in found]
