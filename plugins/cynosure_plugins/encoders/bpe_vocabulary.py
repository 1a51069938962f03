"""Vocabularies of byte-pair encoding: read from their two files, kept in a tensor, and texts cut into their tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cynosure.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "</w>"
"""What follows the last character of a word."""
BYTES = 64
"""A kept vocabulary's room for a token and the merge that makes it; those of the published one take some 26."""


class Vocabulary:
    """Tokens in the order of their numbers, and the pairs of tokens that become one, the first ones first.

    Characters are joined to tokens within a word (Sennrich et al. 2016, section 3.2), as Hugging Face's
    `CharBPETokenizer` does it for lower case. `pad` is the token after the end of a text, `unknown` that of a character
    which has none. Raises CheckpointError, which names `source`, for lists that are no vocabulary.
    """

    def __init__(
        self, tokens: Sequence[str], merges: Sequence[tuple[str, str]], pad: str, unknown: str, source: str
    ) -> None:
        self.tokens, self.merges, self.pad, self.unknown = tokens, merges, pad, unknown
        self.ids = {token: number for number, token in enumerate(tokens)}
        for option, token in (("pad", pad), ("unknown", unknown)):
            if token not in self.ids:
                raise CheckpointError(f"{source} has no token {token}: set {option} to the one that it has instead.")
        for left, right in merges:
            if lacking := [token for token in (left, right, left + right) if token not in self.ids]:
                raise CheckpointError(
                    f"{source} merges '{left} {right}' and lacks {lacking[0]}: take files of one pair."
                )

    def __call__(self, text: str, length: int, dropout: float = 0.0) -> list[int]:
        """The numbers of a text's first `length` tokens, padded to so many; `dropout` is how often a merge is left out,
        by torch's random numbers."""
        text = text.encode("utf-8", "replace").decode()
        found = self._drop_merges(text, dropout) if dropout else self._tokenizer.encode(text).ids
        return [*found[:length], *[self.ids[self.pad]] * (length - len(found))]

    def _drop_merges(self, text: str, dropout: float) -> list[int]:
        """BPE-dropout, done here because no seed reaches the random numbers of the library, which has it as well."""
        rng = random.Random(int(torch.randint(1 << 62, ())))
        normal = self._tokenizer.normalizer.normalize_str(text)
        words = self._tokenizer.pre_tokenizer.pre_tokenize_str(normal)
        parts = [part for word, _ in words for part in self._parts(word, dropout, rng)]
        return [self.ids.get(part, self.ids[self.unknown]) for part in parts]

    def _parts(self, word: str, dropout: float, rng: random.Random) -> list[str]:
        """The tokens of a word when merges are left out at random (Provilkov et al. 2020, section 3.1).

        One that was left out is tried again whenever another is not, be it a merge that has become impossible; so has
        the library it, which drops less than the paper does.
        """
        parts = [*word[:-1], word[-1] + END]
        places = list(range(len(parts)))
        merges = [merge for i in places if (merge := self._merge(parts, i, i))]
        left_out: list[tuple[int, int, str]] = []
        while merges:
            merges.remove(merge := min(merges))
            if rng.random() < dropout:
                left_out.append(merge)
                continue
            merges, left_out = merges + left_out, []
            _, place, token = merge
            i = places.index(place) if place in places else len(parts)
            now = self._merge(parts, i, place)
            if now and now[2] == token:
                parts[i : i + 2] = [token]
                del places[i + 1]
                merges += [new for k in range(max(i - 1, 0), i + 1) if (new := self._merge(parts, k, places[k]))]
        return parts

    def _merge(self, parts: list[str], i: int, place: int) -> tuple[int, int, str] | None:
        """The merge of part i, which begins at a place of the word, with the next: its rank, the place, its token."""
        pair = parts[i : i + 2]
        rank = self._ranks.get((pair[0], pair[1])) if len(pair) == 2 else None
        return None if rank is None else (rank, place, "".join(pair))

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        tokenizer = Tokenizer(models.BPE(self.ids, self.merges, unk_token=self.unknown, end_of_word_suffix=END))
        clean = normalizers.BertNormalizer(lowercase=False)
        tokenizer.normalizer = normalizers.Sequence([clean, normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    def packed(self) -> torch.Tensor:
        """The vocabulary as UTF-8, uint8 [BYTES * tokens]; CheckpointError for one that has no room there."""
        text = json.dumps([self.tokens, self.merges], ensure_ascii=False, separators=(",", ":")).encode()
        size = BYTES * len(self.tokens)
        if len(text) > size:
            raise CheckpointError(
                f"the vocabulary takes {len(text)} bytes and a model keeps {size}, {BYTES} a token: take one of "
                "shorter tokens or fewer merges."
            )
        return torch.frombuffer(bytearray(text.ljust(size)), dtype=torch.uint8)


def unpacked(kept: torch.Tensor, pad: str, unknown: str) -> Vocabulary:
    """The inverse of `Vocabulary.packed`. Raises CheckpointError for other tensors."""
    source = "the vocabulary in the model"
    try:
        tokens, merges = json.loads(bytes(kept.cpu().numpy()))
        pairs = [(left, right) for left, right in map(_strings, merges)]
        if len(_strings(tokens)) * BYTES != len(kept):
            raise ValueError(f"it has {len(tokens)} tokens")
        return Vocabulary(tokens, pairs, pad, unknown, source)
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{source} cannot be read ({error}): its checkpoint is damaged, take another.") from error


def read_vocabulary(vocabulary: Path, merges: Path, pad: str, unknown: str) -> Vocabulary:
    """Of a JSON file of tokens and their numbers, and a text file of one pair a line.

    Raises CheckpointError for files that are not there or hold something else.
    """
    tokens = _tokens(vocabulary, _text(vocabulary))
    lines = _text(merges).split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise CheckpointError(f"{merges} is no list of merges: it needs two tokens a line, with a space between them.")
    return Vocabulary(tokens, [(left, right) for left, right in pairs], pad, unknown, f"{vocabulary} with {merges}")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): give the vocabulary's two files.") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is no text: give the vocabulary's two files.") from error


def _tokens(file: Path, text: str) -> list[str]:
    """Tokens in the order of their numbers."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    numbers = list(found.values()) if isinstance(found, dict) else []
    if not numbers or any(type(n) is not int for n in numbers) or sorted(numbers) != list(range(len(numbers))):
        raise CheckpointError(f"{file} is no BPE vocabulary: it needs tokens with the numbers 0, 1, 2, ... in JSON.")
    return sorted(found, key=found.__getitem__)


def _strings(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("it is no list of tokens")
    return values
