"""Text as the context of a prior, read byte by byte: no vocabulary file, every language, trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch

from cynosure import hookimpl
from cynosure.core.records import Shapes
from cynosure_plugins.encoders.texts import TextsConfig, TextsEncoder

PAD = 256
"""The token after the last byte; its embedding is learnt like the others."""


@final
class TextEncoder(TextsEncoder):
    """B strings -> one vector a byte of their UTF-8 form, [B, N, d] with N = `length` always.

    Longer texts are cut, shorter ones padded. Raises DataError where the inputs hold no such column of strings.
    """

    class Config(TextsConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__(config, PAD + 1)
        if not config.depth:
            self.vocab_size = PAD + 1

    def numbers(self, texts: Sequence[str]) -> torch.Tensor:
        return byte_tokens(texts, self.config.length)

    def tokens(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.read(inputs, task)


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
