"""Tokenizer and base `maskgit` against arrays computed by the official MaskGIT code, whose pictures are in [0, 1]."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from convnets import TASK, Arrays, fill, millions, pair, published_vq, read, same
from torch import nn

from cynosure_plugins.bases.maskgit import MaskGITBase
from cynosure_plugins.convnets.layers import PUBLISHED_GROUPS
from cynosure_plugins.convnets.maskgit import MaskGITConfig
from cynosure_plugins.importers import maskgit_names
from cynosure_plugins.tokenizers.maskgit import MaskGITTokenizer

ATOL = 5e-5


def vectors(array: Any) -> torch.Tensor:
    """An array [B, h, w, d] as vectors [B, h * w, d]."""
    return torch.from_numpy(array).flatten(1, 2)


def picture(array: Any) -> torch.Tensor:
    """[B, H, W, 3] in [0, 1] -> [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(array).permute(0, 3, 1, 2) * 2 - 1


@pytest.fixture(scope="module")
def io(golden: Path) -> Arrays:
    return read(golden / "maskgit" / "tokenizer_io.npz")


@pytest.fixture(scope="module")
def parts(golden: Path, io: Arrays) -> nn.ModuleDict:
    config = json.loads(str(io["config"]))
    sizes = {
        "channels": config["filters"],
        "multipliers": config["channel_multipliers"],
        "blocks": config["num_res_blocks"],
        "groups": PUBLISHED_GROUPS,
    }
    quantizer = published_vq(config["codebook_size"], config["embedding_dim"])
    parts = pair(MaskGITTokenizer, MaskGITBase, sizes, quantizer, io["image"].shape[1])
    ours = MaskGITConfig(**sizes)
    table = maskgit_names.tokenizer(TASK, ours) | maskgit_names.base(TASK, ours)
    table |= maskgit_names.vector_quantizer(config["codebook_size"])
    arrays = read(golden / "maskgit" / "tokenizer_params.npz")
    left = fill(parts, table, {name.removeprefix("params/"): array for name, array in arrays.items()})
    assert not left, "arrays of the checkpoint that no tensor of ours is made of"
    return parts


def test_encoder_and_codes(parts: Any, io: Arrays) -> None:
    image = picture(io["image"])
    same(parts["tokenizer"].bottleneck(image, {}, TASK), vectors(io["pre_quant"]), ATOL)
    encoded = parts["tokenizer"](image, {}, TASK)
    assert encoded.codes.ids.flatten().tolist() == io["codes"].flatten().tolist()
    same(encoded.vectors, vectors(io["quantized"]), ATOL)


def test_reconstruction(parts: Any, io: Arrays) -> None:
    encoded = parts["tokenizer"](picture(io["image"]), {}, TASK)
    for codes in (encoded.vectors, parts["tokenizer"].vectors(encoded.codes)):
        same(parts["base"]({}, codes, TASK), picture(io["recon"]), 2 * ATOL)


def test_defaults_have_the_parameters_of_the_published_model() -> None:
    with torch.device("meta"):
        parts = pair(MaskGITTokenizer, MaskGITBase, {}, published_vq(1024, 256), 256)
    assert millions(parts) == 54.52
