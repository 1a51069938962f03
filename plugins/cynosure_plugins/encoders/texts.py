"""What encoders of text share: the column they read, and a transformer over the vectors of its parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import nn

from cynosure.core.blocks import Transformer, positions
from cynosure.core.contracts import Encoder, PartConfig
from cynosure.errors import DataError


class TextsConfig(PartConfig):
    field: str = Field("caption", description="the input column to read")
    length: int = Field(96, ge=1, description="N, parts of a text that are read")
    dim: int = Field(256, ge=1, description="width of the transformer")
    depth: int = Field(4, ge=0, description="transformer blocks; with 0 the prior sees the parts themselves")
    heads: int = Field(4, ge=1)
    mlp_dim: int = Field(1024, ge=1)


class TextsEncoder(Encoder):
    """B strings -> one vector a part, [B, N, d] with N = `length` always: longer texts are cut, shorter ones padded.

    Raises DataError where the inputs hold no such column of strings.
    """

    def __init__(self, config: TextsConfig, rows: int) -> None:
        """`rows` of the table of vectors that parts are made of."""
        super().__init__()
        self.config, self.dim = config, config.dim
        self.embedding = nn.Embedding(rows, config.dim)
        self.positions = positions(config.length, config.dim)
        self.transformer: nn.Module = nn.Identity()
        if config.depth:
            self.transformer = Transformer(config.dim, config.depth, config.heads, config.mlp_dim)

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.transformer(self.embed(self.read(inputs, task)) + self.positions)

    def read(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """The numbers of the texts in the inputs."""
        return self.numbers(self._texts(inputs, task)).to(self.embedding.weight.device)

    def embed(self, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers of parts -> their vectors [B, N, d]."""
        return self.embedding(numbers)

    @abstractmethod
    def numbers(self, texts: Sequence[str]) -> torch.Tensor:
        """B texts -> the rows of the table that their parts are made of, int64 [B, N] or [B, N, several]."""

    def _texts(self, inputs: Mapping[str, Any], task: str) -> Sequence[str]:
        texts = inputs.get(self.config.field)
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"the prior's encoder: task '{task}' has no strings in input '{self.config.field}'; set its field to "
                f"one of: {', '.join(inputs)}."
            )
        return texts
