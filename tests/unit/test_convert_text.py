"""RQ-Transformers for text become runs that need no other file: the reference's numbers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from converted import GREEDY, golden, model, read_recipe, refused, same, save, settings, small_rqvae, weights

from cynosure.cli.app import main
from cynosure.errors import CheckpointError
from cynosure.host import Host, load_host
from cynosure.run.convert import convert
from cynosure_plugins.importers import rqvae
from cynosure_plugins.importers.recipes import TEXT_TASK


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


def run(*words: Any) -> None:
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    assert not done.value.code


def letters(folder: Path) -> list[Path]:
    """A vocabulary of 17 tokens, most of which are words of one letter."""
    tokens = [f"{letter}</w>" for letter in ascii_lowercase[:15]]
    tokens[1], tokens[3], tokens[7] = "x", "y</w>", "xy</w>"
    tokens += ["[UNK]", "[PAD]"]
    (folder / "tokens").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges").write_text("#version: 0.2\nx y</w>\n")
    return [folder / "tokens", folder / "merges"]


def test_rq_transformer_gives_the_reference_numbers(tmp_path: Path, host: Host) -> None:
    arrays = golden("rqtransformer/text_cond.npz")
    arch = json.loads(str(arrays["config"]))
    told = {"arch": arch, "dataset": {"txt_tok_name": "bpe16k_huggingface", "context_length": 5, "bpe_dropout": 0.1}}
    told["loss"] = {"txt_weight": 0.2, "img_weight": 0.8}
    told["sampling"] = {"temp": 1.0, "top_k": 24, "top_p": 0.7}
    files = [*letters(tmp_path), *small_rqvae(tmp_path, arrays["codebook"], 3)]
    files += [save(tmp_path / "stage2.pt", weights(arrays)), settings(tmp_path / "stage2.yaml", told)]
    convert("rq_transformer", files, tmp_path / "out", host)
    for file in files:
        file.unlink()
    prior = model(tmp_path / "out", host).prior
    texts = [" ".join(ascii_lowercase[token] for token in row) for row in arrays["cond"]]
    inputs, codes = {"caption": texts}, torch.from_numpy(arrays["codes"]).flatten(1, 2)
    assert np.array_equal(prior.encoder.tokens(inputs, TEXT_TASK), arrays["cond"]), "texts are read as other tokens"
    same(prior.logits(inputs, codes.flatten(1), TEXT_TASK), arrays["logits"].reshape(len(codes), -1, 24))
    read, _ = prior._read(inputs, codes, TEXT_TASK)
    same(prior.text_logits(read, 5), arrays["cond_logits"])
    greedy = prior.sample(inputs, TEXT_TASK, GREEDY, torch.arange(len(codes))).ids
    assert np.array_equal(greedy.flatten(), arrays["greedy"].flatten()), "greedy codes are others"
    assert prior.config.text_loss == 0.25 and prior.encoder.config.dropout == 0.1
    assert read_recipe(tmp_path / "out")["eval"]["sampling"]["top_p"] == 0.7


def test_a_converted_model_makes_pictures_of_sentences_and_learns_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the files that it was made from."""
    monkeypatch.chdir(tmp_path)
    files = [*rqvae._write_first(tmp_path), *rqvae._write_text(tmp_path)]
    run("convert", "rq_transformer", *files, "out")
    assert 'cynosure generate out "a red bus"' in capsys.readouterr().out
    for file in files:
        file.unlink()
    run("generate", "out", "a red bus", "Red!", "--samples", "2")
    assert len(list(tmp_path.glob("generated/*.png"))) == 4
    recipe = read_recipe(Path("out"))
    recipe["data"] = {"images": {"name": "scenes", "size": 32, "train": 8, "validation": 4, "test": 4}}
    recipe["init"] = {"from": "out"}
    recipe["train"] = {"stages": ["prior"], "prior": {"steps": 2}}
    recipe["tasks"][TEXT_TASK] |= {"data": "images", "batch_size": 2}
    Path("more.yaml").write_text(yaml.safe_dump(recipe))
    run("train", "more.yaml", "-o", "more")
    run("generate", "more", "a red bus")


def test_a_vocabulary_is_asked_for_and_must_be_that_of_the_model(tmp_path: Path, host: Host) -> None:
    first, second = rqvae._write_first(tmp_path), rqvae._write_text(tmp_path)
    checkpoint, told, tokens, merges = second
    for files in ([checkpoint, told], [checkpoint, told, tokens], [checkpoint, told, merges]):
        text = refused("rq_transformer", files, tmp_path, host)
        assert "give bpe-16k-vocab.json and bpe-16k-merges.txt too" in text and "kakaobrain/rq-vae-transformer" in text
    values = yaml.safe_load(told.read_text()) | {"dataset": {"txt_tok_name": "bpe30k_huggingface"}}
    assert "give bpe-30k-vocab.json" in refused("rq_transformer", [checkpoint, settings(told, values)], tmp_path, host)
    other = [checkpoint, told, *letters(tmp_path)]
    assert f"has 17 tokens, {checkpoint} vectors for 8" in refused("rq_transformer", other, tmp_path, host)
    assert "give an RQ-VAE alone" in refused("rqvae", [*first, tokens, merges], tmp_path, host)
    whole = tokens.read_text()
    tokens.write_text(whole[:9])
    assert "is no BPE vocabulary" in refused("rq_transformer", second, tmp_path, host)
    tokens.write_text(whole)
    classes = rqvae._write_second(tmp_path)
    assert "reads no texts: leave out" in refused("rq_transformer", [*classes, tokens, merges], tmp_path, host)


def test_stages_of_a_model_for_text_are_converted_at_once(tmp_path: Path, host: Host) -> None:
    """The parts of the first stage carry the name of the task, which that stage alone cannot know."""
    stages = {"rqvae": rqvae._write_first(tmp_path), "rq_transformer": rqvae._write_text(tmp_path)}
    for begun, added in (("rqvae", "rq_transformer"), ("rq_transformer", "rqvae")):
        convert(begun, stages[begun], folder := tmp_path / begun, host)
        with pytest.raises(CheckpointError, match="convert all files of that model at once, into another folder"):
            convert(added, stages[added], folder, host)
