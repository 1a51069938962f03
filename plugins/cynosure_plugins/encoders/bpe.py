"""Text as the context of a prior, in the pieces of words that a published vocabulary has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, final

import torch
from pydantic import Field, model_validator

from cynosure import hookimpl
from cynosure.core.initial import initial_weights_wanted, missing_files
from cynosure.core.records import Shapes
from cynosure.errors import CheckpointError
from cynosure_plugins.encoders.bpe_vocabulary import BYTES, Vocabulary, read_vocabulary, unpacked
from cynosure_plugins.encoders.texts import TextsConfig, TextsEncoder


@final
class BPEEncoder(TextsEncoder):
    """B strings -> one vector a token of byte-pair encoding, [B, N, d] with N = `length` always (Sennrich et al. 2016).

    Upper case counts as lower; a character that the vocabulary lacks is one `unknown`. Longer texts are cut, shorter
    ones padded. The vocabulary comes from two files, and is kept with the weights from then on: a trained model needs
    no files. Raises CheckpointError for files that are no vocabulary of `vocab_size` tokens, and where a text is to be
    read and there has never been one; DataError where the inputs hold no such column of strings.
    """

    class Config(TextsConfig):
        length: int = Field(32, ge=1, description="N, tokens that are read")
        vocabulary: Path | None = Field(
            None, description="JSON file of tokens and their numbers, as Hugging Face's tokenizers write it: vocab.json"
        )
        merges: Path | None = Field(None, description="text file of the pairs that are merged: merges.txt")
        vocab_size: int = Field(16384, ge=1, description="how many tokens the vocabulary has")
        dropout: float = Field(
            0.0, ge=0, lt=1, description="share of merges that training leaves out (BPE-dropout); published: 0.1"
        )
        pad: str = Field("[PAD]", description="the token after the end")
        unknown: str = Field("[UNK]", description="the token of characters that are not in the vocabulary")

        @model_validator(mode="after")
        def _both_files(self) -> Self:
            if (self.vocabulary is None) != (self.merges is None):
                raise ValueError("vocabulary and merges are the two files of one vocabulary: give both or neither")
            return self

    TESTING: ClassVar = {"needs": "the files of a vocabulary"}
    config: Config

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__(config, config.vocab_size)
        if not config.depth:
            self.vocab_size = config.vocab_size
        self.vocabulary: torch.Tensor
        self.register_buffer("vocabulary", torch.zeros(BYTES * config.vocab_size, dtype=torch.uint8))
        self._words: Vocabulary | None = None
        self._read: tuple[Sequence[str], torch.Tensor] | None = None
        missing = missing_files()
        self._counted = missing is not None
        if config.vocabulary is None or config.merges is None:
            return
        files = config.vocabulary.expanduser(), config.merges.expanduser()
        if missing is not None:
            missing += [f"there is no file {file} for encoder bpe" for file in files if not file.is_file()]
        elif initial_weights_wanted():
            self.vocabulary.copy_(_packed(*files, config))

    def read(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        tokens = super().read(inputs, task)
        self._read = self._texts(inputs, task), tokens
        return tokens

    def tokens(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """Those that the last call read, where it read these texts: with dropout they would be others now."""
        if self._read is not None and self._read[0] is self._texts(inputs, task):
            return self._read[1]
        return self.read(inputs, task)

    def numbers(self, texts: Sequence[str]) -> torch.Tensor:
        if self._counted:  # in a dry run, which has no values
            return torch.zeros(len(texts), self.config.length, dtype=torch.long)
        words = self._words = self._words or self._kept()
        length, dropout = self.config.length, self.config.dropout if self.training else 0.0
        return torch.tensor([words(text, length, dropout) for text in texts], dtype=torch.long).view(-1, length)

    def _kept(self) -> Vocabulary:
        if not self.vocabulary.any():
            raise CheckpointError(
                "encoder bpe has no vocabulary: give its two files as vocabulary and merges, or begin with a run that "
                "has one (init.from)."
            )
        return unpacked(self.vocabulary, self.config.pad, self.config.unknown)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._words = self._read = None


def _packed(vocabulary: Path, merges: Path, config: BPEEncoder.Config) -> torch.Tensor:
    """The vocabulary of two files, as a model of these options keeps it."""
    found = read_vocabulary(vocabulary, merges, config.pad, config.unknown)
    if len(found.tokens) != config.vocab_size:
        raise CheckpointError(
            f"encoder bpe: {vocabulary} has {len(found.tokens)} tokens, and vocab_size is {config.vocab_size}: make "
            "them the same."
        )
    return found.packed()


@hookimpl
def cynosure_register(register: Any) -> None:
    register.encoder("bpe", BPEEncoder)
