"""Encoder `bpe`: texts become the tokens of a vocabulary, which the model keeps."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tokenizers import CharBPETokenizer

from cynosure.core.initial import initial_weights, planned
from cynosure.core.records import Shapes
from cynosure.errors import CheckpointError, DataError
from cynosure_plugins.encoders.bpe import BPEEncoder
from cynosure_plugins.encoders.bpe_vocabulary import read_vocabulary

SHAPES = Shapes((64, 32), {"words": 3})
PAD, UNKNOWN = 0, 1
TOKENS = ["[PAD]", "[UNK]", *"abdehru", "!</w>", "a</w>", "d</w>", "s</w>", "re", "red</w>", "bu", "bus</w>"]
MERGES = [("r", "e"), ("b", "u"), ("re", "d</w>"), ("bu", "s</w>")]
SMALL: dict[str, Any] = {"dim": 8, "depth": 0, "length": 6, "vocab_size": len(TOKENS)}


def write(folder: Path, tokens: list[str] = TOKENS, merges: list[tuple[str, str]] = MERGES) -> dict[str, Path]:
    """The two files, as Hugging Face's tokenizers write them."""
    files = {"vocabulary": folder / "vocab.json", "merges": folder / "merges.txt"}
    files["vocabulary"].write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    files["merges"].write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    return files


def encoder(**options: Any) -> BPEEncoder:
    return BPEEncoder(BPEEncoder.Config.model_validate({**SMALL, **options}), SHAPES).eval()


def spelled(found: torch.Tensor) -> list[str]:
    return [" ".join(TOKENS[token] for token in row if token != PAD) for row in found]


def test_texts_become_tokens(tmp_path: Path) -> None:
    bpe = encoder(**write(tmp_path))
    texts = ["A RED  bus!", "", "red,bus", "rea \x00red", "red " * 9, "a\ud800"]
    found = bpe.numbers(texts)
    assert found.shape == (6, 6) and found.dtype == torch.long
    red = "red</w>"
    wanted = [f"a</w> {red} bus</w> !</w>", "", f"{red} [UNK] bus</w>", f"re a</w> {red}", " ".join([red] * 6)]
    assert spelled(found) == [*wanted, "a</w> [UNK]"]
    assert bpe.vocab_size == len(TOKENS)
    inputs = {"caption": texts}
    assert torch.equal(bpe.tokens(inputs, "words"), found)
    assert torch.equal(bpe(inputs, "words"), bpe.embedding(found) + bpe.positions)


def test_tokens_are_those_of_the_library(tmp_path: Path) -> None:
    """Of a vocabulary that it learns from these very texts, and of signs that it has never seen."""
    rng, known = random.Random(0), ["Größe", "größer,", "red-ish", "REDDEST", "busses", "bus!", "ΣΑΣ", "中文", "don't"]
    texts = [" ".join(rng.choices(known, k=8)) for _ in range(99)]
    learnt = CharBPETokenizer(unk_token="[UNK]", lowercase=True)
    learnt.train_from_iterator(texts, 90, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    files = [Path(file) for file in learnt.save_model(str(tmp_path))]
    theirs = CharBPETokenizer.from_file(*map(str, files), unk_token="[UNK]", lowercase=True)
    theirs.enable_padding(length=24, pad_id=0)
    theirs.enable_truncation(max_length=24)
    ours = read_vocabulary(*files, "[PAD]", "[UNK]")
    for text in [*texts, "ﬁ İstanbul\u2028ǅ\tx", "new words, £5", "a" * 50]:
        assert ours(text, 24) == theirs.encode(text).ids, text
        assert ours(text, 24, dropout=1e-12) == theirs.encode(text).ids, text


def test_dropout_is_that_of_the_library_and_follows_the_seed(tmp_path: Path) -> None:
    words, count = read_vocabulary(*write(tmp_path).values(), "[PAD]", "[UNK]"), 4000
    theirs = CharBPETokenizer(words.ids, list(MERGES), unk_token="[UNK]", lowercase=True, dropout=0.4)
    torch.manual_seed(0)
    ours = Counter(tuple(words("red", 3, 0.4)) for _ in range(count))
    wanted = Counter(tuple(theirs.encode("red").ids) for _ in range(count))
    for split, often in wanted.items():
        padded = (*split, *[PAD] * (3 - len(split)))
        assert abs(ours[padded] - often) < 5 * count**0.5, f"{split} is met {ours[padded]} times, not {often}"
    torch.manual_seed(0)
    assert ours == Counter(tuple(words("red", 3, 0.4)) for _ in range(count))


def test_only_training_drops_merges_and_the_text_to_predict_is_the_one_that_was_read(tmp_path: Path) -> None:
    bpe, inputs = encoder(**write(tmp_path), dropout=0.5), {"caption": ["red bus"] * 64}
    assert len(set(spelled(bpe.numbers(inputs["caption"])))) == 1
    read = bpe.train()(inputs, "words")
    found = bpe.tokens(inputs, "words")
    assert len(set(spelled(found))) > 3
    assert torch.equal(read, bpe.embedding(found) + bpe.positions)
    assert not torch.equal(found, bpe.tokens({"caption": ["red bus"] * 64}, "words"))


def test_a_model_keeps_its_vocabulary(tmp_path: Path) -> None:
    first = encoder(**write(tmp_path), depth=1, heads=2, mlp_dim=8)
    (tmp_path / "vocab.json").unlink()
    with initial_weights(False):
        second = encoder(**write(tmp_path.parent, TOKENS[::-1]), depth=1, heads=2, mlp_dim=8)
    with pytest.raises(CheckpointError, match=r"has no vocabulary: give its two files .*init\.from"):
        second.numbers(["red"])
    second.load_state_dict(first.state_dict())
    inputs = {"caption": ["A red bus", "ah!"]}
    assert torch.equal(first(inputs, "words"), second(inputs, "words"))
    other = encoder(**write(tmp_path, [*TOKENS[:2], *TOKENS[:1:-1]]), depth=1, heads=2, mlp_dim=8)
    second.load_state_dict({**first.state_dict(), "vocabulary": other.vocabulary})
    assert torch.equal(second.numbers(["red"]), other.numbers(["red"])), "the former vocabulary is still in use"


def test_a_dry_run_needs_no_files_and_says_which_are_missing(tmp_path: Path) -> None:
    with planned() as missing:
        bpe = encoder(vocabulary=tmp_path / "a.json", merges=tmp_path / "b.txt")
    assert missing == [f"there is no file {tmp_path / name} for encoder bpe" for name in ("a.json", "b.txt")]
    assert bpe({"caption": ["red", "bus"]}, "words").shape == (2, 6, 8)


def test_what_is_no_vocabulary_is_named(tmp_path: Path) -> None:
    files = write(tmp_path)

    def refused(said: str, **options: Any) -> None:
        with pytest.raises(CheckpointError, match=said) as error:
            encoder(**{**files, **options})
        assert "\n" not in str(error.value)

    refused(r"vocab\.json has 17 tokens, and vocab_size is 30", vocab_size=30)
    refused("has no token <pad>: set pad", pad="<pad>")
    refused("has no token <unk>: set unknown", unknown="<unk>")
    refused(r"absent\.json cannot be read \(No such file", vocabulary=tmp_path / "absent.json")
    refused(r"merges\.txt is no BPE vocabulary", vocabulary=files["merges"])
    refused(r"vocab\.json is no list of merges", merges=files["vocabulary"])
    (tmp_path / "noise").write_bytes(b"\xff\xfe")
    refused("noise is no text", merges=tmp_path / "noise")
    for broken in ('{"a": 0, "b": 2}', '{"a": "b"}', "[]", '{"a": true}', "{"):
        files["vocabulary"].write_text(broken)
        refused(r"vocab\.json is no BPE vocabulary")
    write(tmp_path, merges=[("b", "e")])
    refused("merges 'b e' and lacks be")
    write(tmp_path, [*TOKENS, "a" * 3000])
    refused(r"takes \d+ bytes and a model keeps 1152", vocab_size=18)
    with pytest.raises(ValidationError, match="give both or neither"):
        encoder(vocabulary=tmp_path / "vocab.json")


def test_a_damaged_checkpoint_and_other_inputs_are_named(tmp_path: Path) -> None:
    bpe = encoder(**write(tmp_path))
    with pytest.raises(DataError, match="no strings in input 'caption'; set its field to one of: label"):
        bpe({"label": [1]}, "words")
    for text in (b"[[1], []]", b"[", b'[["[PAD]", "[UNK]"], []]', b"1", b"\xff"):
        kept = torch.frombuffer(bytearray(text.ljust(len(bpe.vocabulary))), dtype=torch.uint8)
        bpe.load_state_dict({**bpe.state_dict(), "vocabulary": kept})
        with pytest.raises(CheckpointError, match=r"cannot be read .*damaged, take another"):
            bpe.numbers(["red"])
