"""Text as the context of a prior, read word by word: short sequences, no vocabulary file, trained from scratch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, final

import torch
from pydantic import Field
from torch import nn

from cynosure import hookimpl
from cynosure.core.blocks import Transformer, positions
from cynosure.core.contracts import Encoder, PartConfig
from cynosure.core.records import Shapes
from cynosure_plugins.encoders.text import read_texts

HASHES = 2
WORD = re.compile(r"\w+|[^\w\s]")


@final
class WordsEncoder(Encoder):
    """B strings -> one vector a word or sign, [B, N, d] with N = `length` always; upper case counts as lower.

    A word is the sum of the `HASHES` rows of a table that hashes of it point to (hash embeddings, Svenstrup et al.
    2017): two words would have to share both to be one. Longer texts are cut, shorter ones padded. A word that training
    never showed says nothing; encoder `text`, which reads bytes, can spell it. Raises DataError where the inputs hold
    no such column of strings.
    """

    class Config(PartConfig):
        field: str = Field("caption", description="the input column to read")
        length: int = Field(32, ge=1, description="N, words and signs that are read")
        rows: int = Field(2048, ge=1, description="rows of the table; many times as many words can be told apart")
        dim: int = Field(256, ge=1, description="width of the transformer")
        depth: int = Field(4, ge=0, description="transformer blocks")
        heads: int = Field(4, ge=1)
        mlp_dim: int = Field(1024, ge=1)

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.embedding = nn.Embedding(config.rows + 1, config.dim)  # the last row stands after the end
        self.positions = positions(config.length, config.dim)
        self.transformer: nn.Module = nn.Identity()
        if config.depth:
            self.transformer = Transformer(config.dim, config.depth, config.heads, config.mlp_dim)

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        texts = read_texts(inputs, self.config.field, task)
        rows = word_rows(texts, self.config.length, self.config.rows).to(self.embedding.weight.device)
        return self.transformer(self.embedding(rows).sum(2) + self.positions)


def word_rows(texts: Sequence[str], length: int, rows: int) -> torch.Tensor:
    """Table rows of the words of B texts, int64 [B, length, HASHES] in [0, rows), `rows` after the end."""
    found = torch.full((len(texts), length, HASHES), rows)
    for row, text in zip(found, texts, strict=True):
        words = WORD.findall(text.lower())[:length]
        if words:
            row[: len(words)] = torch.tensor([_hashes(word) for word in words]) % rows
    return found


@lru_cache(100_000)
def _hashes(word: str) -> tuple[int, ...]:
    """The same in every process and version, which Python's own hash is not."""
    digest = blake2b(word.encode("utf-8", "replace"), digest_size=4 * HASHES).digest()
    return tuple(int.from_bytes(digest[4 * i : 4 * i + 4], "little") for i in range(HASHES))


@hookimpl
def cynosure_register(register: Any) -> None:
    register.encoder("words", WordsEncoder)
