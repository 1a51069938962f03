"""Tokenizer and base `vqgan` with quantizer `rq` against arrays computed by the published RQ-VAE code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from convnets import F16, TASK, Arrays, fill, millions, pair, read, same, vqgan_options
from torch import nn

from cynosure.core.guided import GuidedModel
from cynosure.core.records import Batch, Shapes
from cynosure_plugins.bases.vqgan import VQGANBase
from cynosure_plugins.convnets.grids import fold, unfold
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers import vqgan_names
from cynosure_plugins.quantizers.rq import ResidualQuantizer
from cynosure_plugins.tokenizers.vqgan import VQGANTokenizer
from cynosure_tasks.generation import Generation


def vectors(array: Any) -> torch.Tensor:
    """An array [B, h, w, ...] as [B, h * w, ...]."""
    return torch.from_numpy(array).flatten(1, 2)


@pytest.fixture(scope="module")
def io(golden: Path) -> Arrays:
    return read(golden / "rqvae" / "rqvae_io.npz")


@pytest.fixture(scope="module")
def parts(golden: Path, io: Arrays) -> nn.ModuleDict:
    config = json.loads(str(io["config"]))
    settings, sizes = config["hparams"], vqgan_options(config["ddconfig"])
    sizes["fold"] = settings["latent_shape"][0] // settings["code_shape"][0]
    quantizer = ResidualQuantizer.Config(
        vocab_size=settings["n_embed"],
        dim=settings["embed_dim"] * sizes["fold"] ** 2,
        depth=settings["code_shape"][-1],
        shared=settings["shared_codebook"],
        decay=settings["decay"],
        commitment=settings["latent_loss_weight"],
    )
    side = io["image"].shape[-1]
    parts = pair(VQGANTokenizer, VQGANBase, sizes, ResidualQuantizer(quantizer), side)
    ours = VQGANConfig(**sizes)
    books = 1 if quantizer.shared else quantizer.depth
    table = vqgan_names.tokenizer(TASK, ours) | vqgan_names.base(TASK, ours)
    table |= vqgan_names.residual_quantizer(books, quantizer.decay)
    left = fill(parts, table, read(golden / "rqvae" / "rqvae_weights.npz"))
    assert all(name.startswith("quantizer.codebooks.") for name in left), "only averages and copies of the codebook"
    return parts


def test_encoder_and_codes(parts: Any, io: Arrays) -> None:
    encoded = parts["tokenizer"](torch.from_numpy(io["image"]), {}, TASK)
    same(parts["tokenizer"].bottleneck(torch.from_numpy(io["image"]), {}, TASK), vectors(io["pre_quant"]))
    assert encoded.codes.ids.tolist() == vectors(io["codes"]).tolist()
    same(encoded.vectors, vectors(io["quantized"]))
    same(encoded.losses["commitment"] / parts["tokenizer"].quantizer.config.commitment, io["commitment_loss"], atol=0)


@pytest.mark.parametrize(("kind", "term"), [("mse", "l2"), ("l1", "l1")])
def test_losses_of_a_picture(parts: Any, io: Arrays, kind: str, term: str) -> None:
    image, key = torch.from_numpy(io["image"]), torch.zeros(1, dtype=torch.long)
    size = image.shape[-2:]
    task = Generation(Generation.Config(**{"l1": 0.0, "l2": 0.0, term: 1.0}), size)
    shapes = Shapes(size, {TASK: 3}, parts["tokenizer"].spec, parts["tokenizer"].code_dim)
    model = GuidedModel({TASK: task}, shapes, parts["base"], parts["tokenizer"]).eval()
    step = model(Batch(TASK, {}, {"rgb": image}, key, key == 0), "codes")
    same(step.loss, io[f"loss_total_{kind}"], atol=0)
    same(step.logs[term], io[f"loss_recon_{kind}"], atol=0)


def test_reconstruction(parts: Any, io: Arrays) -> None:
    encoded = parts["tokenizer"](torch.from_numpy(io["image"]), {}, TASK)
    same(parts["base"]({}, encoded.vectors, TASK), io["recon"])
    same(parts["base"]({}, parts["tokenizer"].vectors(encoded.codes), TASK), io["decode_code"])


@pytest.mark.parametrize("kind", ["add", "select"])
def test_pictures_of_some_depths(parts: Any, io: Arrays, kind: Any) -> None:
    ids, quantizer = vectors(io["codes"]), parts["tokenizer"].quantizer
    for depth in range(quantizer.depth):
        drawn = parts["base"]({}, quantizer.partial(ids, depth + 1, kind), TASK)
        same(drawn, io[f"partial_{kind}_{depth}"])


def test_fold_writes_rows_then_columns_then_channels() -> None:
    """The published order: a code vector of 2 x 2 latents is its upper left latent, its upper right one, ..."""
    x = torch.arange(4 * 6 * 3).view(1, 24, 3)
    grid = x.view(4, 6, 3)
    folded = fold(x, (4, 6), 2)
    cell = torch.cat([grid[2, 4], grid[2, 5], grid[3, 4], grid[3, 5]])
    assert folded.shape == (1, 6, 12)
    assert torch.equal(folded[0, 5], cell)
    assert torch.equal(unfold(folded, (2, 3), 2), x)


@pytest.mark.parametrize(("vocab_size", "counted"), [(16384, 104.4), (2048, 100.7)])
def test_parameters_of_published_models(vocab_size: int, counted: float) -> None:
    sizes = {**F16, "multipliers": (1, 1, 2, 2, 4, 4), "attention": (5,)}
    with torch.device("meta"):
        quantizer = ResidualQuantizer(ResidualQuantizer.Config(vocab_size=vocab_size, dim=256))
        parts = pair(VQGANTokenizer, VQGANBase, sizes, quantizer, 256)
    codewords = vocab_size * 256 / 1e6  # kept as totals here, as parameters there
    assert round(millions(parts) + codewords, 1) == counted
