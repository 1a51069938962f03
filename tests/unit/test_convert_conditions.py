"""VQGAN's transformers that are conditioned on maps become runs that make pictures from depth and segmentations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from converted import Arrays, golden, model, read_recipe, refused, same, weights
from PIL import Image
from torch.nn import functional as F

from cynosure.cli.app import main
from cynosure.core.records import SampleSettings
from cynosure.host import Host, load_host
from cynosure.run.convert import convert
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers import gpt_names, vqgan_names
from cynosure_plugins.importers.archive import random_arrays
from cynosure_plugins.importers.recipes import TASK
from cynosure_plugins.importers.vqgan import write_files

CONFIG = VQGANConfig(channels=32, multipliers=(1, 1), blocks=1, attention=(1,), z_channels=8)
SIDE, HALF = 6, 9
"""Pixels on the side of a picture, and codes of a picture or a map: 3 x 3."""
CHANNELS = {"depth": 1, "segmentation": 5}
FIELDS = {"depth": "depth", "segmentation": "panoptic"}


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


def stage(K: int, channels: int = 3, seed: int = 0) -> Arrays:
    """A VQModel that reads and draws pictures of some channels, with codewords near its latents."""
    table = vqgan_names.tokenizer(TASK, CONFIG, 4, channels) | vqgan_names.base(TASK, CONFIG, 4)
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=a.shape).astype(np.float32) * 0.2 for name, a in random_arrays(table).items()}
    arrays["decoder.conv_out.weight"] = np.zeros((channels, 32, 3, 3), np.float32)
    arrays["decoder.conv_out.bias"] = np.zeros(channels, np.float32)
    return arrays | {"quantize.embedding.weight": rng.normal(size=(K, 4)).astype(np.float32)}


def settings(kind: str, transformer: Mapping[str, Any], **params: Any) -> dict[str, Any]:
    ddconfig = {"resolution": SIDE, "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "z_channels": 8}
    described = {"params": {"ddconfig": {**ddconfig, "attn_resolutions": [SIDE // 2]}}}
    told = {"cond_stage_key": kind, "first_stage_config": described, "cond_stage_config": described}
    return {"model": {"params": {**told, "transformer_config": {"params": dict(transformer)}, **params}}}


def files(
    folder: Path, kind: str, transformer: Arrays, told: Mapping[str, Any], K: int = 40, **params: Any
) -> list[Path]:
    """A checkpoint in the released layout: a first stage, a stage of conditions, a transformer."""
    arrays = {f"first_stage_model.{name}": value for name, value in stage(K).items()}
    arrays |= {f"cond_stage_model.{name}": value for name, value in stage(K, CHANNELS[kind], seed=1).items()}
    if kind == "segmentation":
        arrays["cond_stage_model.colorize"] = np.zeros((3, CHANNELS[kind], 1, 1), np.float32)
    arrays |= {f"transformer.{name}": value for name, value in transformer.items()}
    return write_files(folder, arrays, settings(kind, told, **params))


def tiny(folder: Path, kind: str, **params: Any) -> list[Path]:
    """The same with a transformer of random values."""
    table = gpt_names.gpt(1, 8, 32, 40, 40, 18, HALF) | gpt_names.after_codes(40, 8, 18, 40, HALF)
    return files(folder, kind, random_arrays(table), {"n_head": 2}, **params)


def maps(kind: str) -> torch.Tensor:
    """Three of them as the encoder sees them."""
    generator = torch.Generator().manual_seed(0)
    if kind == "depth":
        return torch.rand(3, SIDE, SIDE, generator=generator) * 2 - 1
    return torch.randint(0, CHANNELS[kind], (3, SIDE, SIDE), generator=generator)


def reference(sd: Arrays, tokens: torch.Tensor, heads: int, unmasked: int) -> torch.Tensor:
    """Logits of minGPT, written down plainly: [B, N] tokens -> [B, N, V]."""
    w = {name: torch.from_numpy(value) for name, value in sd.items()}
    B, N = tokens.shape
    x = w["tok_emb.weight"][tokens] + w["pos_emb"][:, :N]
    seen = torch.ones(N, N).tril()
    seen[:unmasked, :unmasked] = 1
    for i in range(sum(name.endswith("ln1.weight") for name in w)):
        part = {name.removeprefix(f"blocks.{i}."): value for name, value in w.items()}
        y = F.layer_norm(x, x.shape[-1:], part["ln1.weight"], part["ln1.bias"])
        q, k, v = (
            F.linear(y, part[f"attn.{name}.weight"], part[f"attn.{name}.bias"]).view(B, N, heads, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(seen == 0, -torch.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + F.linear(y, part["attn.proj.weight"], part["attn.proj.bias"])
        y = F.layer_norm(x, x.shape[-1:], part["ln2.weight"], part["ln2.bias"])
        y = F.gelu(F.linear(y, part["mlp.0.weight"], part["mlp.0.bias"]))
        x = x + F.linear(y, part["mlp.2.weight"], part["mlp.2.bias"])
    return F.linear(F.layer_norm(x, x.shape[-1:], w["ln_f.weight"], w["ln_f.bias"]), w["head.weight"])


@pytest.mark.parametrize("name", ["gpt", "gpt_unmasked"])
def test_the_plain_computation_is_the_reference_s(name: str) -> None:
    arrays = golden(f"vqgan/{name}.npz")
    told = json.loads(str(arrays["config"]))
    found = reference(weights(arrays), torch.from_numpy(arrays["idx"]), told["n_head"], told["n_unmasked"])
    same(found, arrays["logits"])


@pytest.mark.parametrize("unmasked", [0, HALF])
@pytest.mark.parametrize("kind", ["depth", "segmentation"])
def test_logits_and_greedy_codes_are_the_reference_s(kind: str, unmasked: int, tmp_path: Path, host: Host) -> None:
    arrays = golden("vqgan/gpt.npz")
    told = {**json.loads(str(arrays["config"])), "n_unmasked": unmasked}
    convert("vqgan", files(tmp_path, kind, weights(arrays), told), tmp_path / "out", host)
    prior, inputs = model(tmp_path / "out", host).prior, {FIELDS[kind]: maps(kind)}
    first = prior.encoder.tokens(inputs, TASK)
    assert first.unique().numel() >= 3, "all maps have the same codes"
    last = torch.from_numpy(arrays["idx"][:, HALF:])
    logits = reference(weights(arrays), torch.cat([first, last], 1)[:, :-1], told["n_head"], unmasked)
    same(prior.logits(inputs, last, TASK), logits[:, HALF - 1 :])
    written = prior.sample(inputs, TASK, SampleSettings(temperature=0.0), torch.arange(3)).ids[..., 0]
    again = reference(weights(arrays), torch.cat([first, written], 1)[:, :-1], told["n_head"], unmasked)
    assert torch.equal(written, again[:, HALF - 1 :].argmax(-1))


def test_logits_are_those_of_the_golden_sequence(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = golden("vqgan/gpt.npz")
    convert("vqgan", files(tmp_path, "depth", weights(arrays), json.loads(str(arrays["config"]))), tmp_path / "o", host)
    prior, tokens = model(tmp_path / "o", host).prior, torch.from_numpy(arrays["idx"])
    monkeypatch.setattr(prior.encoder, "tokens", lambda *_: tokens[:, :HALF])
    same(prior.logits({}, tokens[:, HALF:], TASK), arrays["logits"][:, HALF - 1 : -1])


def test_codes_of_maps_are_the_reference_s(tmp_path: Path, host: Host) -> None:
    """The stage of conditions is the reference's VQGAN, which reads pictures in colour."""
    io, first = golden("vqgan/vqgan_io.npz"), golden("vqgan/vqgan_weights.npz")
    params = {"params": json.loads(str(io["config"]))}
    K, side = len(first["quantize.embedding.weight"]), io["image"].shape[-1]
    P = io["codes"].size // len(io["image"])
    table = gpt_names.gpt(1, 8, 32, K, K, 2 * P, P) | gpt_names.after_codes(K, 8, 2 * P, K, P)
    arrays = {f"transformer.{name}": value for name, value in random_arrays(table).items()}
    for part in ("first_stage_model", "cond_stage_model"):
        arrays |= {f"{part}.{name}": value for name, value in first.items()}
    told = settings("depth", {"n_head": 2}, first_stage_config=params, cond_stage_config=params)
    convert("vqgan", write_files(tmp_path, arrays, told), tmp_path / "out", host)
    encoder = model(tmp_path / "out", host).prior.encoder
    assert (encoder.config.channels, side) == (3, read_recipe(tmp_path / "out")["image_size"][0])
    assert np.array_equal(
        encoder.tokens({"depth": torch.from_numpy(io["image"])}, TASK).flatten(), io["codes"].flatten()
    )
    grey = torch.from_numpy(io["image"][:, 0])
    assert torch.equal(
        encoder.tokens({"depth": grey}, TASK), encoder.tokens({"depth": grey[:, None].expand(-1, 3, -1, -1)}, TASK)
    )


def test_a_map_becomes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line, of any size; what is no such map is said."""
    numbers = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(numbers).save(tmp_path / "depth.png")
    Image.fromarray(numbers % 5).save(tmp_path / "classes.png")
    Image.fromarray(np.stack([numbers, numbers, 2 * numbers], -1)).save(tmp_path / "colour.png")

    def run(*words: object) -> int:
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        return int(done.value.code or 0)

    for kind, file in (("depth", "depth.png"), ("segmentation", "classes.png")):
        (folder := tmp_path / kind).mkdir()
        assert run("convert", "vqgan", *tiny(folder, kind), folder / "run") == 0
        said = capsys.readouterr().out
        assert "Left out: the decoder of conditions" in said and f"cynosure predict {folder / 'run'} " in said
        assert run("predict", folder / "run", tmp_path / file, "--samples", 2, "--grid", "-o", folder / "made") == 0
        made = sorted((folder / "made").glob("*generation-*.png"))
        assert [Image.open(each).size for each in made] == [(SIDE, SIDE)] * 2
        assert run("predict", folder / "run", tmp_path / "colour.png", "--codes", "oracle", "-o", folder) == 0
    assert run("generate", tmp_path / "depth" / "run") == 2
    assert "from a depth map, whose file `cynosure predict` reads" in capsys.readouterr().err
    assert run("predict", tmp_path / "depth" / "run", tmp_path / "colour.png", "-o", tmp_path) == 2
    assert "is in colour; a map has one number a pixel" in capsys.readouterr().err
    assert run("predict", tmp_path / "segmentation" / "run", tmp_path / "depth.png", "-o", tmp_path) == 2
    assert "holds class 63, but classes are 0 to 4" in capsys.readouterr().err


def test_files_of_coco_stuff_are_read_as_they_are(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHANNELS, "segmentation", 183)
    found = convert("vqgan", tiny(tmp_path, "segmentation"), tmp_path / "out", host)
    task = read_recipe(tmp_path / "out")["tasks"][TASK]
    assert (task["labels"], task["shift"]) == (183, 1) and "255 for void" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("kind", "params", "said"),
    [
        ("depth", {"cond_stage_key": "edges"}, "it is conditioned on 'edges'"),
        ("depth", {"downsample_cond_size": 3}, "made smaller before it reads them (downsample_cond_size)"),
        ("depth", {"transformer_config": {"params": {"n_head": 2, "n_unmasked": 4}}}, "and 9 come before the codes"),
        ("depth", {"permuter_config": {"target": "a.ZCurve"}}, "in the order ZCurve"),
        ("segmentation", {"cond_stage_key": "depth"}, "it reads pictures of 5 channels, a depth map has 1 or 3"),
        (
            "depth",
            {"cond_stage_key": "segmentation"},
            "pictures of 1 channels, a depth map has 1 or 3 and a segmentation one a class",
        ),
    ],
    ids=["another kind", "smaller", "prefix", "order", "channels", "channel"],
)
def test_what_a_condition_cannot_be_is_named(
    kind: str, params: dict[str, Any], said: str, tmp_path: Path, host: Host
) -> None:
    assert said in refused("vqgan", tiny(tmp_path, kind, **params), tmp_path, host)


def test_what_is_wrong_with_a_condition_is_told(tmp_path: Path, host: Host) -> None:
    checkpoint, told = tiny(tmp_path, "depth")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    del state["cond_stage_model.encoder.norm_out.bias"]
    state["cond_stage_model.surplus"] = torch.zeros(1)
    torch.save({"state_dict": state}, checkpoint)
    text = refused("vqgan", [checkpoint, told], tmp_path, host)
    for part in ("1 missing (cond_stage_model.encoder.norm_out.bias)", "1 left over (cond_stage_model.surplus)"):
        assert part in text
