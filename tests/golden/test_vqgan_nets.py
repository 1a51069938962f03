"""Tokenizer and base `vqgan` against arrays computed by taming-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from convnets import F16, TASK, Arrays, fill, millions, pair, published_vq, read, rows, same, vqgan_options
from torch import nn

from cynosure_plugins.bases.vqgan import VQGANBase
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers import vqgan_names
from cynosure_plugins.quantizers.gumbel import GumbelQuantizer
from cynosure_plugins.tokenizers.vqgan import VQGANTokenizer


@pytest.fixture(scope="module")
def io(golden: Path) -> Arrays:
    return read(golden / "vqgan" / "vqgan_io.npz")


@pytest.fixture(scope="module")
def parts(golden: Path, io: Arrays) -> nn.ModuleDict:
    config = json.loads(str(io["config"]))
    sizes = vqgan_options(config["ddconfig"])
    quantizer = published_vq(config["n_embed"], config["embed_dim"], legacy_beta=True)
    parts = pair(VQGANTokenizer, VQGANBase, sizes, quantizer, io["image"].shape[-1])
    ours = VQGANConfig(**sizes)
    table = vqgan_names.tokenizer(TASK, ours) | vqgan_names.base(TASK, ours)
    table |= vqgan_names.vector_quantizer(config["n_embed"])
    assert not fill(parts, table, read(golden / "vqgan" / "vqgan_weights.npz")), (
        "arrays of the checkpoint that no tensor of ours is made of"
    )
    return parts


def test_encoder_and_codes(parts: Any, io: Arrays) -> None:
    image = torch.from_numpy(io["image"])
    tokenizer = parts["tokenizer"]
    same(tokenizer.encoder.conv_in[TASK](image)[:, :4], io["stage/encoder.conv_in"])
    same(tokenizer.bottleneck(image, {}, TASK), rows(io["pre_quant"]))
    encoded = tokenizer(image, {}, TASK)
    assert encoded.codes.ids.flatten().tolist() == io["codes"].flatten().tolist()
    assert tokenizer.spec.grid == io["codes"].shape[1:]
    same(encoded.vectors, rows(io["quantized"]))
    same(tokenizer.vectors(encoded.codes), rows(io["quantized_lookup"]))
    same(sum(encoded.losses.values(), torch.zeros(())), io["emb_loss_legacy"], atol=0)


def test_loss_with_beta_on_the_right_term(parts: Any, io: Arrays) -> None:
    trained = parts["tokenizer"].quantizer
    quantizer = published_vq(trained.vocab_size, trained.dim, commitment=float(io["beta"]))
    quantizer.load_state_dict(trained.state_dict())
    losses = quantizer(parts["tokenizer"].bottleneck(torch.from_numpy(io["image"]), {}, TASK)).losses
    same(sum(losses.values(), torch.zeros(())), io["emb_loss_fixed"], atol=0)


def test_reconstruction(parts: Any, io: Arrays) -> None:
    encoded = parts["tokenizer"](torch.from_numpy(io["image"]), {}, TASK)
    same(parts["base"]({}, encoded.vectors, TASK), io["recon"])
    same(parts["base"]({}, parts["tokenizer"].vectors(encoded.codes), TASK), io["recon_from_codes"])


def test_default_sizes_are_the_published_ones() -> None:
    assert VQGANConfig() == VQGANConfig(**F16), "the documentation promises those of the f16 models"


@pytest.mark.parametrize(
    ("changes", "vocab_size", "counted"),
    [
        ({}, 1024, 72.14),
        ({}, 16384, 76.07),
        ({"multipliers": (1, 1, 2, 4), "attention": (3,)}, 8192, 66.89),
    ],
    ids=["f16-1024", "f16-16384", "f8-8192"],
)
def test_parameters_of_published_models(changes: dict[str, Any], vocab_size: int, counted: float) -> None:
    with torch.device("meta"):
        parts = pair(VQGANTokenizer, VQGANBase, {**F16, **changes}, published_vq(vocab_size, 256), 256)
    assert millions(parts) == counted


def test_gumbel_names_fill_the_whole_model() -> None:
    with torch.device("meta"):
        quantizer = GumbelQuantizer(GumbelQuantizer.Config(vocab_size=8192, dim=256))
        parts = pair(VQGANTokenizer, VQGANBase, F16, quantizer, 256)
    config = VQGANConfig(**F16)
    table = vqgan_names.tokenizer(TASK, config) | vqgan_names.base(TASK, config) | vqgan_names.gumbel_quantizer()
    assert set(table) == set(parts.state_dict())
