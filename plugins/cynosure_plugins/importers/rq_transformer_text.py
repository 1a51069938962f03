"""What an RQ-Transformer for text has besides: the two files of a vocabulary, and a classifier of the text's tokens.

Shapes: V tokens of the vocabulary, N tokens of a text, d width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cynosure.core.records import LazyTensor
from cynosure.errors import CheckpointError
from cynosure_plugins.encoders.bpe_vocabulary import BYTES, read_vocabulary
from cynosure_plugins.importers.archive import Table
from cynosure_plugins.importers.arrays import SAME, Made
from cynosure_plugins.importers.configs import Settings
from cynosure_plugins.importers.gpt_names import same

TOKENIZERS = {"bpe16k_huggingface": "bpe-16k", "bpe30k_huggingface": "bpe-30k"}
"""Published names of tokenizers that encoder bpe is, and how the names of their files begin."""
PUBLISHED = "rqvae/txtimg_datasets/tokenizers/pretrained of github.com/kakaobrain/rq-vae-transformer"
PAD, UNKNOWN = "[PAD]", "[UNK]"
TEXT_WEIGHT, PICTURE_WEIGHT = 0.1, 0.9
"""Of the losses, where a configuration is silent."""


@dataclass(frozen=True)
class VocabularyFiles:
    """The files among others that are of a vocabulary: `tokens` in JSON, `merges` with a line for each."""

    tokens: tuple[Path, ...]
    merges: tuple[Path, ...]

    @classmethod
    def among(cls, files: Sequence[Path]) -> VocabularyFiles:
        starts = {file: _start(file) for file in files if file.is_file()}
        listed = {file for file, start in starts.items() if start.startswith(b"{")}
        tokens = tuple(file for file in listed if file.suffix not in (".yaml", ".yml"))  # YAML may be JSON
        merges = tuple(file for file, start in starts.items() if start == b"#version")
        return cls(tokens, merges)

    @property
    def all(self) -> tuple[Path, ...]:
        return (*self.tokens, *self.merges)

    def tensor(self, checkpoint: Path, settings: Settings, V: int) -> LazyTensor:
        """The vocabulary as encoder bpe keeps it. Raises CheckpointError unless there is one, of V tokens."""
        if (len(self.tokens), len(self.merges)) != (1, 1):
            name = TOKENIZERS.get(settings.get("dataset.txt_tok_name"), "bpe-16k")
            raise CheckpointError(
                f"{checkpoint} reads texts with a vocabulary that is in no checkpoint: give {name}-vocab.json and "
                f"{name}-merges.txt too, one of each, which are in {PUBLISHED}."
            )
        vocabulary = read_vocabulary(self.tokens[0], self.merges[0], PAD, UNKNOWN)
        if (found := len(vocabulary.tokens)) != V:
            raise CheckpointError(
                f"{self.tokens[0]} has {found} tokens, {checkpoint} vectors for {V}: give the vocabulary that this "
                "model was trained with."
            )
        return LazyTensor((BYTES * V,), torch.uint8, vocabulary.packed)


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(len(b"#version"))


def unlike_ours(settings: Settings, V: int, N: int) -> Iterator[str]:
    """What keeps a text from being what encoder bpe reads, and a configuration from being that of V and N."""
    name = settings.get("dataset.txt_tok_name")
    if name is not None and name not in TOKENIZERS:
        yield f"its texts are cut by tokenizer {name}, and encoder bpe is {' or '.join(TOKENIZERS)}"
    for key, found in (("arch.vocab_size_cond", V), ("arch.block_size_cond", N), ("dataset.context_length", N)):
        if (told := settings.get(key, found)) != found:
            yield f"{settings.path} says {key} {told}, the arrays {found}"
    if any(not isinstance(weight, (int, float)) or weight <= 0 for weight in _weights(settings)):
        yield f"{settings.path} gives no loss to the text or none to the picture, and the prior has both"


def _weights(settings: Settings) -> tuple[Any, Any]:
    return settings.get("loss.txt_weight", TEXT_WEIGHT), settings.get("loss.img_weight", PICTURE_WEIGHT)


def options(settings: Settings, V: int, N: int, d: int) -> dict[str, Any]:
    """What text adds to the prior's part of a recipe."""
    text, picture = _weights(settings)
    encoder = {"name": "bpe", "vocab_size": V, "length": N, "dim": d, "depth": 0, "pad": PAD, "unknown": UNKNOWN}
    dropout = settings.get("dataset.bpe_dropout") or 0.0
    return {"text_loss": text / picture, "encoder": {**encoder, "dropout": dropout}}


def tensors(V: int, N: int, d: int) -> Table:
    """Vectors of tokens, their positions, and the classifier of tokens."""
    return {
        "prior.encoder.embedding.weight": Made(("cond_emb.weight",), SAME, shapes=((V, d),)),
        "prior.encoder.positions": Made(("pos_emb_cond",), SAME, shapes=((1, N, d),)),
        **same("prior.text_head.0", "cond_classifier.layer_norm", (d,), (d,)),
        **same("prior.text_head.1", "cond_classifier.linear", (V, d), (V,)),
    }
