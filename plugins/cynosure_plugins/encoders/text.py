"""Text as the context of a prior, read byte by byte: no vocabulary file, every language, trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from pydantic import Field
from torch import nn

from cynosure import hookimpl
from cynosure.core.blocks import Transformer, positions
from cynosure.core.contracts import Encoder, PartConfig
from cynosure.core.records import Shapes
from cynosure.errors import DataError

PAD = 256
"""The token after the last byte; its embedding is learnt like the others."""


@final
class TextEncoder(Encoder):
    """B strings -> one vector a byte of their UTF-8 form, [B, N, d] with N = `length` always.

    Longer texts are cut, shorter ones padded. Raises DataError where the inputs hold no such column of strings.
    """

    class Config(PartConfig):
        field: str = Field("caption", description="the input column to read")
        length: int = Field(96, ge=1, description="N, bytes that are read")
        dim: int = Field(256, ge=1, description="width of the transformer")
        depth: int = Field(4, ge=0, description="transformer blocks; with 0 the prior sees the bytes themselves")
        heads: int = Field(4, ge=1)
        mlp_dim: int = Field(1024, ge=1)

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.embedding = nn.Embedding(PAD + 1, config.dim)
        self.positions = positions(config.length, config.dim)
        self.transformer: nn.Module = nn.Identity()
        if config.depth:
            self.transformer = Transformer(config.dim, config.depth, config.heads, config.mlp_dim)
        else:
            self.vocab_size = PAD + 1

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.transformer(self.embedding(self.tokens(inputs, task)) + self.positions)

    def tokens(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        texts = read_texts(inputs, self.config.field, task)
        return byte_tokens(texts, self.config.length).to(self.embedding.weight.device)


def read_texts(inputs: Mapping[str, Any], field: str, task: str) -> Sequence[str]:
    """The strings of an input column. Raises DataError where it has none."""
    texts = inputs.get(field)
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"the prior's encoder: task '{task}' has no strings in input '{field}'; set its field to one of: "
            f"{', '.join(inputs)}."
        )
    return texts


def byte_tokens(texts: Sequence[str], length: int) -> torch.Tensor:
    """UTF-8 bytes of B texts, int64 [B, length], PAD after the end."""
    tokens = torch.full((len(texts), length), PAD)
    for row, text in zip(tokens, texts, strict=True):
        read = list(text.encode("utf-8", "replace")[:length])
        row[: len(read)] = torch.tensor(read, dtype=torch.long)
    return tokens


@hookimpl
def cynosure_register(register: Any) -> None:
    register.encoder("text", TextEncoder)
