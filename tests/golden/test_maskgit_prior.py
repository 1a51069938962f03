"""The `masked` prior against arrays computed by google-research/maskgit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cynosure.core.records import CodeSpec, Segment, Shapes
from cynosure_plugins.priors.masked import Masked
from cynosure_plugins.priors.masking import mask_rate, masked_cross_entropy

LAYER = {
    "attention.out": "Attention_0/self_attention/out",
    "mlp.0": "Mlp_0/intermediate_output",
    "mlp.2": "Mlp_0/layer_output",
}
NORMS = {"norm1": "Attention_0/attention_output_ln", "norm2": "Mlp_0/layer_output_ln"}


def load(golden: Path, name: str) -> dict[str, Any]:
    with np.load(golden / "maskgit" / f"{name}.npz") as arrays:
        return {k: json.loads(str(v)) if k == "config" else torch.from_numpy(v) for k, v in arrays.items()}


def prior(arrays: Mapping[str, Any], classes: int = 1) -> Masked:
    """The reference's model for sequences of `input_ids`, which begin with a class unless there are none."""
    config = arrays["config"]
    tokens, size, dim = arrays["input_ids"].shape[1], config["vocab_size"], config["hidden_size"]
    length = tokens - min(classes, 1)
    shapes = Shapes((16, 16), {"generation": 3}, CodeSpec((Segment("codes", length, 1, size - 1 - classes),)))
    options = Masked.Config(
        dim=dim,
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        classes=classes,
        task_tokens=False,
    )
    model = Masked(options, shapes, None).eval()
    weights = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}

    def kernel(name: str, inputs: int = dim) -> torch.Tensor:
        return weights[f"{name}/kernel"].reshape(inputs, -1).T

    def norm(ours: str, theirs: str) -> dict[str, torch.Tensor]:
        return {f"{ours}.weight": weights[f"{theirs}/scale"], f"{ours}.bias": weights[f"{theirs}/bias"]}

    state = {
        "table.weight": weights["Embed_0/word_embeddings/embedding"],
        "positions.weight": weights["Embed_0/position_embeddings/embedding"][:tokens],
        "dense.weight": kernel("MlmLayer_0/mlm_dense"),
        "dense.bias": weights["MlmLayer_0/mlm_dense/bias"],
        "bias": weights["MlmLayer_0/mlm_bias/bias"],
        **norm("norm", "Embed_0/embeddings_ln"),
        **norm("head_norm", "MlmLayer_0/mlm_ln"),
    }
    for i in range(options.depth):
        theirs = f"TransformerLayer_{i}"
        parts = [f"{theirs}/Attention_0/self_attention/{part}" for part in ("query", "key", "value")]
        state[f"blocks.{i}.attention.qkv.weight"] = torch.cat([kernel(part) for part in parts])
        state[f"blocks.{i}.attention.qkv.bias"] = torch.cat([weights[f"{part}/bias"].flatten() for part in parts])
        for name, path in LAYER.items():
            inputs = options.mlp_dim if name == "mlp.2" else dim
            state[f"blocks.{i}.{name}.weight"] = kernel(f"{theirs}/{path}", inputs)
            state[f"blocks.{i}.{name}.bias"] = weights[f"{theirs}/{path}/bias"]
        for name, path in NORMS.items():
            state |= norm(f"blocks.{i}.{name}", f"{theirs}/{path}")
    model.load_state_dict(state)
    return model


def test_logits(golden: Path) -> None:
    """Of the class token and its place in the table, of codes and of masked codes."""
    arrays = load(golden, "transformer")
    ids = arrays["input_ids"].long()
    model = prior(arrays)
    with torch.no_grad():
        first = (model.table(ids[:, :1]) + model.positions.weight[0]).detach()
        logits = model.predict(first, ids[:, 1:])
    torch.testing.assert_close(logits, arrays["logits"][:, 1:], atol=5e-5, rtol=0)


def test_logits_without_a_class(golden: Path) -> None:
    """The first token of the reference is a code here, like all others."""
    arrays = load(golden, "transformer")
    model, ids = prior(arrays, classes=0), arrays["input_ids"].long()
    logits = model.predict(model.prefix(None, len(ids), "generation"), ids).detach()
    torch.testing.assert_close(logits, arrays["logits"], atol=5e-5, rtol=0)


def test_schedules(golden: Path) -> None:
    arrays = load(golden, "mask_schedule")
    total = arrays["total_unknown"][:, None]
    names = [name.removeprefix("schedule/") for name in arrays if name.startswith("schedule/")]
    assert len(names) == 8
    for name in names:
        found = mask_rate(name, arrays["ratios"], total).expand(arrays[f"schedule/{name}"].shape)
        torch.testing.assert_close(found, arrays[f"schedule/{name}"], atol=1e-6, rtol=1e-5, msg=name)


def test_counts_of_masked_codes(golden: Path) -> None:
    """One code more or less at a round changes everything that is decoded after it."""
    arrays = load(golden, "mask_schedule")
    total = arrays["total_unknown"][:, None]
    cases = [name.split("/")[1:] for name in arrays if name.startswith("floor_counts/")]
    for name, steps in cases:
        ratios = torch.tensor([(step + 1) / int(steps[1:]) for step in range(int(steps[1:]))])
        found = (total * mask_rate(name, ratios, total)).floor().long()
        assert torch.equal(found, arrays[f"floor_counts/{name}/{steps}"]), f"{name} in {steps} rounds"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss(golden: Path, smoothing: float) -> None:
    arrays = load(golden, "losses")
    logits = arrays["logits"].requires_grad_()
    loss = masked_cross_entropy(logits, arrays["labels"], arrays["weights"], smoothing)
    torch.testing.assert_close(loss.detach(), arrays[f"masked_ce_smoothing{smoothing}"], atol=0, rtol=1e-5)
    if smoothing:
        loss.backward()
        torch.testing.assert_close(logits.grad, arrays[f"grad_smoothing{smoothing}"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("side", "millions"), [(16, 172.46), (32, 173.05)])
def test_published_sizes(side: int, millions: float) -> None:
    """The models for 256 x 256 and 512 x 512 pixels."""
    with torch.device("meta"):
        shapes = Shapes((16 * side,) * 2, {"generation": 3}, CodeSpec((Segment("codes", side * side, 1, 1024),)))
        model = Masked(Masked.Config(classes=1000, task_tokens=False), shapes, None)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
