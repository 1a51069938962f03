"""MaskGIT's tokenizer and transformer become runs: the reference's numbers, from files in its own format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from converted import batch, golden, model, refused, same

from cynosure.host import Host, load_host
from cynosure.run.convert import convert
from cynosure_plugins.convnets.maskgit import MaskGITConfig
from cynosure_plugins.importers import maskgit, maskgit_names
from cynosure_plugins.importers.archive import random_arrays
from cynosure_plugins.importers.maskgit import to_msgpack, tree
from cynosure_plugins.importers.recipes import TASK


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


def save_flax(file: Path, arrays: Mapping[str, Any], **more: Any) -> Path:
    file.write_bytes(to_msgpack({**tree({k: np.asarray(v) for k, v in arrays.items()}), **more}))
    return file


def test_maskgits_tokenizer_gives_the_reference_numbers(tmp_path: Path, host: Host) -> None:
    """Its pictures are in [0, 1], ours in [-1, 1]."""
    io = golden("maskgit/tokenizer_io.npz")
    moments = {"0": {"mu": np.zeros(3, np.float32)}}
    file = save_flax(tmp_path / "tokenizer", golden("maskgit/tokenizer_params.npz"), opt_state=moments, step=3)
    convert("maskgit", [file], tmp_path / "out", host, ["image_size=16"])
    found, image = model(tmp_path / "out", host), torch.from_numpy(io["image"]).permute(0, 3, 1, 2)
    codes = found.encode(batch(image * 2 - 1))
    assert np.array_equal(codes.ids.flatten(), io["codes"].flatten()), "the tokenizer writes other codes"
    drawn = found.outputs(batch(image * 2 - 1), codes)
    same((drawn.permute(0, 2, 3, 1) + 1) / 2, io["recon"], atol=5e-5)


def maskgit_tokenizer(folder: Path, K: int) -> Path:
    config = MaskGITConfig(channels=32, multipliers=(1, 1), blocks=1)
    table = maskgit_names.tokenizer(TASK, config, 4) | maskgit_names.base(TASK, config, 4)
    arrays = random_arrays(table | maskgit_names.vector_quantizer(K, 4))
    return save_flax(folder / "tokenizer", {f"params/{name}": value for name, value in arrays.items()})


def test_maskgits_transformer_gives_the_reference_numbers(tmp_path: Path, host: Host) -> None:
    arrays = golden("maskgit/transformer.npz")
    ids, K = torch.from_numpy(arrays["input_ids"]).long(), 2
    file = save_flax(tmp_path / "transformer", {k: v for k, v in arrays.items() if k.startswith("params/")})
    convert("maskgit", [file, maskgit_tokenizer(tmp_path, K)], tmp_path / "out", host)
    prior = model(tmp_path / "out", host).prior
    with torch.no_grad():
        prefix = prior._prefix({"label": ids[:, 0] - K}, 2, TASK)
        same(prior.predict(prefix, ids[:, 1:]), arrays["logits"][:, 1:], atol=5e-5)


def test_maskgit_needs_room_for_classes(tmp_path: Path, host: Host) -> None:
    files = maskgit._write_tiny(tmp_path)
    assert "10 tokens, too few for 1024 codes" in refused("maskgit", files[1:], tmp_path, host)
    assert "give one MaskGIT tokenizer, not several" in refused("maskgit", [files[0], files[0]], tmp_path, host)


def test_wrong_names_of_maskgit_are_told_at_once(tmp_path: Path, host: Host) -> None:
    arrays = golden("maskgit/tokenizer_params.npz")
    del arrays["params/decoder/Conv_2/bias"]
    arrays |= {"params/surplus": np.zeros(1), "params/decoder/Conv_0/bias": np.zeros(3)}
    text = refused("maskgit", [save_flax(tmp_path / "a", arrays)], tmp_path, host)
    for part in (
        "missing (params/decoder/Conv_2/bias)",
        "left over (params/surplus)",
        "Conv_0/bias is [3], wanted [64]",
    ):
        assert part in text, f"{part} is not said in: {text}"


def test_other_flax_checkpoints_are_recognised(tmp_path: Path, host: Host) -> None:
    file = save_flax(tmp_path / "flax", {"Transformer/encoderblock_0/LayerNorm_0/scale": np.zeros(3)})
    assert "looks like a ViT for classification" in refused("maskgit", [file], tmp_path, host)
