"""Text as the context of a prior, read word by word: short sequences, no vocabulary file, trained from scratch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, final

import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.records import Shapes
from cynosure_plugins.encoders.texts import TextsConfig, TextsEncoder

HASHES = 2
WORD = re.compile(r"\w+|[^\w\s]")


@final
class WordsEncoder(TextsEncoder):
    """B strings -> one vector a word or sign, [B, N, d] with N = `length` always; upper case counts as lower.

    A word is the sum of the `HASHES` rows of a table that hashes of it point to (hash embeddings, Svenstrup et al.
    2017): two words would have to share both to be one. Longer texts are cut, shorter ones padded. A word that training
    never showed means nothing; encoder `text`, which reads bytes, can spell it. Raises DataError where the inputs hold
    no such column of strings.
    """

    class Config(TextsConfig):
        length: int = Field(32, ge=1, description="N, words and signs that are read")
        rows: int = Field(2048, ge=1, description="rows of the table; many times as many words can be told apart")

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__(config, config.rows + 1)  # the last row stands after the end
        self.rows = config.rows

    def numbers(self, texts: Sequence[str]) -> torch.Tensor:
        return word_rows(texts, self.config.length, self.rows)

    def embed(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.embedding(numbers).sum(2)


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
