"""Bases, encoders and tasks that break their contract in one way each, for test_kit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from cynosure.core.records import Batch, Example, Prediction
from cynosure_plugins.bases.vit import ViTBase
from cynosure_plugins.encoders.vit import ViTEncoder
from cynosure_tasks.depth import Depth


class BlindBase(ViTBase):  # type: ignore[misc]
    """Reads the picture and makes nothing of it."""

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        return super().forward({**inputs, "image": 0 * inputs["image"]}, vectors, task)


class Detached(ViTBase):  # type: ignore[misc]
    """Keeps the gradient from the tokenizer."""

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        return super().forward(inputs, None if vectors is None else vectors.detach(), task)


class MessyBase(ViTBase):  # type: ignore[misc]
    """Writes into the vectors."""

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        if vectors is not None and not vectors.requires_grad:
            vectors.add_(0.01)
        return super().forward(inputs, vectors, task)


class DoubleBase(ViTBase):  # type: ignore[misc]
    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        return super().forward(inputs, vectors, task).double()


class MessyEncoder(ViTEncoder):  # type: ignore[misc]
    """Writes into the picture when it has read it."""

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        found = super().forward({**inputs, "image": inputs["image"].clone()}, task)
        inputs["image"].mul_(0.5)
        return found


class DoubleEncoder(ViTEncoder):  # type: ignore[misc]
    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return super().forward(inputs, task).double()


class DoubleTargets(Depth):  # type: ignore[misc]
    def encode_targets(self, batch: Batch) -> torch.Tensor:
        return super().encode_targets(batch).double()


class DoubleInputs(Depth):  # type: ignore[misc]
    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        example = super().prepare(row, rng, train)
        return Example({**example.inputs, "extra": np.zeros((32, 32))}, example.targets)


class Noisy(Depth):  # type: ignore[misc]
    """Answers otherwise every time."""

    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        return super().decode(outputs + 0.1 * torch.randn_like(outputs), batch)


class Neighbourly(Depth):  # type: ignore[misc]
    """Answers by what the other rows are."""

    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        return super().decode(outputs - 0.3 * outputs.mean(0, keepdim=True), batch)


class Summed(Depth):  # type: ignore[misc]
    """A loss that grows with the batch."""

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: len(batch) * value for name, value in super().loss(outputs, batch).items()}


class Columnar(Depth):  # type: ignore[misc]
    """Reads a column of its own: nothing is wrong with that, but the checks know none."""

    fields = (*Depth.fields, "keypoints")

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        example = super().prepare(row, rng, train)
        if "depth" not in row:
            return example
        return Example(example.inputs, {**example.targets, "point": np.float32(row["keypoints"][0])})


class Supplied(Columnar):
    """Says what rows have there."""

    TESTING: ClassVar = {"row": lambda seed, size: {"keypoints": [[seed % size[0], 3], [5, 8]]}}


BASES = (BlindBase, Detached, MessyBase, DoubleBase)
ENCODERS = (MessyEncoder, DoubleEncoder)
TASKS = (DoubleTargets, DoubleInputs, Noisy, Neighbourly, Summed, Columnar, Supplied)
