"""VQGAN, RQ-VAE and their transformers become runs: the reference's numbers, from files in its own formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from converted import (
    GREEDY,
    SMALL,
    Arrays,
    batch,
    golden,
    model,
    read_recipe,
    refused,
    same,
    save,
    settings,
    small_rqvae,
    weights,
)

from cynosure.cli.app import main
from cynosure.host import Host, load_host
from cynosure.run.convert import convert
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers import rqvae, vqgan, vqgan_names
from cynosure_plugins.importers.archive import random_arrays
from cynosure_plugins.importers.recipes import TASK


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


def small_vqgan(K: int) -> Arrays:
    config = VQGANConfig(channels=32, multipliers=(1, 1), blocks=1, attention=(1,), z_channels=8)
    table = vqgan_names.tokenizer(TASK, config, 4) | vqgan_names.base(TASK, config, 4)
    return random_arrays(table | vqgan_names.vector_quantizer(K, 4))


# VQGAN


def vqgan_files(folder: Path, **more: Any) -> list[Path]:
    arrays = golden("vqgan/vqgan_weights.npz")
    told = json.loads(str(golden("vqgan/vqgan_io.npz")["config"]))
    loss = {"loss.discriminator.main.0.weight": np.zeros(3), "loss.perceptual_loss.lin0.model.1.weight": np.zeros(3)}
    file = save(folder / "last.ckpt", {**arrays, **loss}, **more)
    return [file, settings(folder / "project.yaml", {"model": {"params": told}})]


def test_vqgan_gives_the_reference_numbers(tmp_path: Path, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line to codes and pictures."""
    files = [str(file) for file in vqgan_files(tmp_path)]
    with pytest.raises(SystemExit) as done:
        main(["convert", "vqgan", *files, str(tmp_path / "out")])
    assert not done.value.code
    printed = capsys.readouterr().out
    assert "Left out: the discriminator" in printed and "PICTURE... --codes oracle" in printed
    found, io = model(tmp_path / "out", host), golden("vqgan/vqgan_io.npz")
    codes = found.encode(batch(io["image"]))
    assert np.array_equal(codes.ids.flatten(), io["codes"].flatten()), "the tokenizer writes other codes"
    same(found.outputs(batch(io["image"]), codes), io["recon_from_codes"])


def test_vqgan_needs_no_configuration(tmp_path: Path, host: Host) -> None:
    """All sizes are in the arrays but that of pictures, which --set says."""
    file, told = vqgan_files(tmp_path)
    convert("vqgan", [file], tmp_path / "bare", host, ["image_size=16"])
    convert("vqgan", [told, file], tmp_path / "told", host)
    assert (tmp_path / "bare" / "recipe.yaml").read_text() == (tmp_path / "told" / "recipe.yaml").read_text()


@pytest.mark.parametrize("unconditional", [False, True])
def test_vqgans_transformer_gives_the_reference_numbers(unconditional: bool, tmp_path: Path, host: Host) -> None:
    arrays = golden("vqgan/gpt.npz")
    told = json.loads(str(arrays["config"]))
    first = {f"first_stage_model.{name}": value for name, value in small_vqgan(K=told["vocab_size"]).items()}
    second = {f"transformer.{name}": value for name, value in weights(arrays).items()}
    rows = slice(1, 2) if unconditional else slice(None)
    start = torch.from_numpy(arrays["idx"][rows, 0])
    params: dict[str, Any] = {
        "cond_stage_key": "image" if unconditional else "class_label",
        "transformer_config": {"params": told},
        "first_stage_config": {"params": {"ddconfig": SMALL}},
    }
    params |= {"unconditional": True, "sos_token": int(start)} if unconditional else {}
    files = [save(tmp_path / "a.ckpt", first | second), settings(tmp_path / "b.yaml", {"model": {"params": params}})]
    convert("vqgan", files, tmp_path / "out", host)
    prior, inputs = model(tmp_path / "out", host).prior, {} if unconditional else {"label": start}
    logits = prior.logits(inputs, torch.from_numpy(arrays["idx"][rows, 1:17]), TASK)
    same(logits, arrays["logits"][rows, :16])
    codes = prior.sample(inputs, TASK, GREEDY, torch.arange(len(start))).ids[..., 0]
    assert np.array_equal(codes, arrays["greedy_from_first_token"][rows, :16]), "greedy codes are others"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"cond_stage_key": "coord"}, "conditioned on 'coord' (CoordStage)"),
        ({"cond_stage_key": "depth"}, "conditioned on 'depth'"),
        ({"permuter_config": {"target": "taming.modules.transformer.permuter.ZCurve"}}, "in the order ZCurve"),
        ({"transformer_config": {"params": {"n_head": 2, "n_unmasked": 4}}}, "n_unmasked"),
        ({"transformer_config": {"params": {"n_head": 3}}}, "does not divide into 3 heads"),
        ({"transformer_config": {"params": {}}}, "does not say model.params.transformer_config.params.n_head"),
    ],
    ids=["coordinates", "depth", "order", "prefix", "heads", "no heads"],
)
def test_what_gpt_cannot_be_is_named(params: dict[str, Any], said: str, tmp_path: Path, host: Host) -> None:
    file, told = vqgan._write_tiny(tmp_path)
    values = yaml.safe_load(told.read_text())
    values["model"]["params"] |= {"cond_stage_config": {"target": "taming.modules.misc.coord.CoordStage"}, **params}
    assert said in refused("vqgan", [file, settings(told, values)], tmp_path, host)


def test_a_transformer_without_its_configuration_asks_for_it(tmp_path: Path, host: Host) -> None:
    assert "give the project .yaml too" in refused("vqgan", vqgan._write_tiny(tmp_path)[:1], tmp_path, host)


def test_gumbel_codes_are_the_likeliest(tmp_path: Path, host: Host) -> None:
    """The reference's `quantize.proj` and `quantize.embed`; facts of its own are in the golden tests."""
    arrays = small_vqgan(K=6)
    book = arrays.pop("quantize.embedding.weight")
    rng = np.random.default_rng(1)
    projection = {"weight": rng.normal(size=(6, 4, 1, 1)), "bias": rng.normal(size=6)}
    arrays |= {f"quantize.proj.{kind}": value.astype(np.float32) for kind, value in projection.items()}
    convert("vqgan", [save(tmp_path / "a.ckpt", {**arrays, "quantize.embed.weight": book})], tmp_path / "out", host)
    quantizer = model(tmp_path / "out", host).tokenizer.quantizer
    vectors = torch.randn(1, 5, 4)
    scores = vectors.numpy() @ projection["weight"][:, :, 0, 0].T + projection["bias"]
    assert np.array_equal(quantizer(vectors).ids[..., 0], scores.argmax(-1))
    same(quantizer(vectors).vectors, book[scores.argmax(-1)])


def test_codebooks_of_moving_averages_are_read(tmp_path: Path, host: Host) -> None:
    arrays = small_vqgan(K=6)
    counts = {"quantize.embedding.cluster_size": np.arange(6.0), "quantize.embedding.embed_avg": np.zeros((6, 4))}
    convert("vqgan", [save(tmp_path / "a.ckpt", arrays | counts)], tmp_path / "out", host)
    same(model(tmp_path / "out", host).tokenizer.quantizer.codewords, arrays["quantize.embedding.weight"])


def test_a_transformer_of_renumbered_codes_knows_those_alone(tmp_path: Path, host: Host) -> None:
    """taming-transformers' remap: the tokenizer keeps its codebook, the transformer learnt the codes that data use."""
    arrays, used = golden("vqgan/gpt.npz"), np.array([30, 4, 17, *range(40, 50)])
    told, n = json.loads(str(arrays["config"])), len(used)
    first = {f"first_stage_model.{name}": value for name, value in small_vqgan(K=64).items()}
    second = {f"transformer.{name}": value for name, value in weights(arrays).items()}
    second |= {f"transformer.{name}.weight": arrays[f"sd/{name}.weight"][:n] for name in ("tok_emb", "head")}
    params = {"unconditional": True, "transformer_config": {"params": told}}
    params["first_stage_config"] = {"params": {"ddconfig": SMALL}}
    files = [save(tmp_path / "a.ckpt", first | second | {"first_stage_model.quantize.used": used})]
    convert("vqgan", [*files, settings(tmp_path / "b.yaml", {"model": {"params": params}})], tmp_path / "out", host)
    found = model(tmp_path / "out", host)
    codes = found.prior.sample({}, TASK, GREEDY, torch.arange(2))
    book = torch.from_numpy(first["first_stage_model.quantize.embedding.weight"])
    assert codes.spec.vocab_size == n
    same(found.tokenizer.vectors(codes), book[torch.from_numpy(used)[codes.ids[..., 0]]])


def test_other_networks_of_the_family_are_named(tmp_path: Path, host: Host) -> None:
    arrays = small_vqgan(K=6)
    gray = arrays | {"encoder.conv_in.weight": np.zeros((32, 1, 3, 3))}
    assert "of 1 channels" in refused("vqgan", [save(tmp_path / "a", gray)], tmp_path, host)
    double = arrays | {"encoder.conv_out.weight": np.zeros((16, 32, 3, 3))}
    assert "double_z" in refused("vqgan", [save(tmp_path / "a", double)], tmp_path, host)
    gumbel = {name: value for name, value in arrays.items() if not name.startswith("quantize.")}
    renumbered = gumbel | random_arrays(vqgan_names.gumbel_quantizer(6, 4)) | {"quantize.used": np.arange(3)}
    assert "remap" in refused("vqgan", [save(tmp_path / "a", renumbered)], tmp_path, host)


def test_a_configuration_of_another_model_is_refused(tmp_path: Path, host: Host) -> None:
    file, told = vqgan_files(tmp_path)
    values = yaml.safe_load(told.read_text())
    values["model"]["params"]["ddconfig"] |= {"ch_mult": [1, 2, 4], "num_res_blocks": 2}
    text = refused("vqgan", [file, settings(told, values)], tmp_path, host)
    assert "ch_mult [1, 2, 4], the checkpoint has [1, 2]" in text and "num_res_blocks 2" in text


# RQ-VAE and RQ-Transformer


def test_rqvae_gives_the_reference_numbers(tmp_path: Path, host: Host) -> None:
    io = golden("rqvae/rqvae_io.npz")
    told = json.loads(str(io["config"]))
    arch = {"type": "rq-vae", **told}
    arrays = {f"module.{name}": value for name, value in golden("rqvae/rqvae_weights.npz").items()}
    files = [save(tmp_path / "model.pt", arrays), settings(tmp_path / "config.yaml", {"arch": arch})]
    convert("rqvae", files, tmp_path / "out", host)
    found = model(tmp_path / "out", host)
    codes = found.encode(batch(io["image"]))
    assert np.array_equal(codes.ids.flatten(), io["codes"].flatten()), "the tokenizer writes other codes"
    same(found.outputs(batch(io["image"]), codes), io["decode_code"])
    quantizer = found.tokenizer.quantizer.config
    assert (quantizer.shared, quantizer.min_count, quantizer.immediate) == (True, 100, True)


@pytest.mark.parametrize("name", ["class_cond", "token_embeddings"])
def test_rq_transformer_gives_the_reference_numbers(name: str, tmp_path: Path, host: Host) -> None:
    arrays = golden(f"rqtransformer/{name}.npz")
    arch = json.loads(str(arrays["config"]))
    rows, columns, depth = arch["block_size"]
    files = small_rqvae(tmp_path, arrays["codebook"], depth)
    files += [save(tmp_path / "stage2.pt", weights(arrays)), settings(tmp_path / "stage2.yaml", {"arch": arch})]
    convert("rq_transformer", files, tmp_path / "out", host, [f"image_size=[{2 * rows},{2 * columns}]"])
    prior = model(tmp_path / "out", host).prior
    inputs = {"label": torch.from_numpy(arrays["cond"][:, 0])}
    codes = torch.from_numpy(arrays["codes"]).flatten(1)
    same(prior.logits(inputs, codes, TASK), arrays["logits"].reshape(len(codes), -1, arch["vocab_size"]))
    greedy = prior.sample(inputs, TASK, GREEDY, torch.arange(len(codes))).ids
    assert np.array_equal(greedy.flatten(), arrays["greedy"].flatten()), "greedy codes are others"


def test_an_unconditional_rq_transformer_begins_with_its_only_token(tmp_path: Path, host: Host) -> None:
    arrays = golden("rqtransformer/token_embeddings.npz")
    arch = json.loads(str(arrays["config"])) | {"vocab_size_cond": 1}
    label = int(arrays["cond"][0, 0])
    changed = weights(arrays) | {"cond_emb.weight": arrays["sd/cond_emb.weight"][label : label + 1]}
    files = small_rqvae(tmp_path, arrays["codebook"], 3)
    files += [save(tmp_path / "stage2.pt", changed), settings(tmp_path / "stage2.yaml", {"arch": arch})]
    convert("rq_transformer", files, tmp_path / "out", host)
    found = model(tmp_path / "out", host).prior.sample({}, TASK, GREEDY, torch.arange(1)).ids
    assert np.array_equal(found.flatten(), arrays["greedy"][0].flatten())


def test_the_two_stages_may_be_converted_one_after_the_other(tmp_path: Path, host: Host) -> None:
    first, second = rqvae._write_first(tmp_path), rqvae._write_second(tmp_path)
    convert("rq_transformer", first + second, whole := tmp_path / "whole", host)
    for order in ([("rqvae", first), ("rq_transformer", second)], [("rq_transformer", second), ("rqvae", first)]):
        folder = tmp_path / order[0][0]
        for source, files in order:
            convert(source, files, folder, host)
        (state, recipe), (parts, joined) = (
            (model(each, host).state_dict(), read_recipe(each)) for each in (whole, folder)
        )
        assert recipe == joined, "stages that are converted one after the other make another recipe"
        assert state.keys() == parts.keys() and all(torch.equal(parts[name], value) for name, value in state.items())


def test_what_rq_transformer_cannot_be_is_named(tmp_path: Path, host: Host) -> None:
    arrays = golden("rqtransformer/text_cond.npz")
    arch = json.loads(str(arrays["config"])) | {"vocab_size_cond": 30}
    arch["body"]["block"]["gelu"] = "v2"
    dataset = {"txt_tok_name": "gpt2_huggingface", "context_length": 64}
    told = {"arch": arch, "dataset": dataset, "loss": {"txt_weight": 0.0}}
    files = [save(tmp_path / "a.pt", weights(arrays)), settings(tmp_path / "a.yaml", told)]
    text = refused("rq_transformer", files, tmp_path, host)
    parts = ["GELU v2", "cut by tokenizer gpt2_huggingface", "arch.vocab_size_cond 30, the arrays 17"]
    for part in [*parts, "dataset.context_length 64, the arrays 5", "gives no loss to the text"]:
        assert part in text, f"{part} is not said in: {text}"


def test_kakaos_files_are_told_apart(tmp_path: Path, host: Host) -> None:
    first, second = rqvae._write_first(tmp_path), rqvae._write_second(tmp_path)
    assert "is an RQ-VAE: give its config.yaml" in refused("rqvae", first[:1], tmp_path, host)
    assert "is an RQ-VAE: give its config.yaml" in refused("rqvae", [first[0], second[1]], tmp_path, host)
    assert "takes both stages" in refused("rqvae", first + second, tmp_path, host)
    assert "no RQ-Transformer among these" in refused("rq_transformer", first, tmp_path, host)
    assert "no RQ-VAE and no RQ-Transformer" in refused("rqvae", vqgan._write_tiny(tmp_path), tmp_path, host)
    wrong = settings(
        first[1], {"arch": {**yaml.safe_load(first[1].read_text())["arch"], "hparams": {"code_shape": [8, 8, 4]}}}
    )
    assert "says codes [8, 8, 4], the arrays [4, 4, 2]" in refused("rqvae", [first[0], wrong], tmp_path, host)


# What is wrong is said


@pytest.mark.parametrize(
    ("source", "write", "names"),
    [
        ("vqgan", vqgan._write_tiny, ("first_stage_model.decoder.norm_out.bias", "transformer.blocks.0.ln1.weight")),
        ("rqvae", rqvae._write_first, ("decoder.norm_out.bias", "encoder.mid.attn_1.q.weight")),
        ("rq_transformer", rqvae._write_second, ("classifier.layer_norm.bias", "body_transformer.blocks.0.ln1.weight")),
    ],
)
def test_all_wrong_names_and_shapes_are_told_at_once(
    source: str, write: Any, names: tuple[str, str], tmp_path: Path, host: Host
) -> None:
    files = write(tmp_path)
    state = {k: v.numpy() for k, v in torch.load(files[0], weights_only=True)["state_dict"].items()}
    gone, turned = names
    del state[gone]
    state[turned] = np.zeros((3, 3))
    prefix = gone.removesuffix("decoder.norm_out.bias") if source == "vqgan" else ""
    state[f"{prefix}surplus"] = np.zeros(1)
    save(files[0], state)
    text = refused(source, files, tmp_path, host)
    for part in (f"1 missing ({gone})", f"1 left over ({prefix}surplus)", f"{turned} is [3, 3], wanted"):
        assert part in text, f"{part} is not said in: {text}"


@pytest.mark.parametrize("source", ["vqgan", "rqvae", "rq_transformer"])
def test_checkpoints_of_other_systems_are_recognised(source: str, tmp_path: Path, host: Host) -> None:
    file = save(tmp_path / "vit.ckpt", {"cls_token": np.zeros(3)})
    assert "its names are cls_token" in refused(source, [file], tmp_path, host)
