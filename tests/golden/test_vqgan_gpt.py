"""The `gpt` prior against arrays computed by taming-transformers' minGPT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cynosure.core.contracts import Encoder
from cynosure.core.decoding import filter_logits
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure_plugins.priors.gpt import GPT

FILES = ("gpt.npz", "gpt_unmasked.npz")


class Given(Encoder):
    """A context that the test gives."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return inputs["context"]


def load(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return {k: json.loads(str(v)) if k == "config" else torch.from_numpy(v) for k, v in arrays.items()}


def prior(arrays: Mapping[str, Any], prefix: int) -> GPT:
    """The reference's model for a prefix of this length, whose positions but the last are the encoder's matter."""
    config = arrays["config"]
    size, dim = config["vocab_size"], config["n_embd"]
    length = config["block_size"] + 1 - prefix
    shapes = Shapes((16, 16), {"generation": 3}, CodeSpec((Segment("codes", length, 1, size),)))
    options = GPT.Config(
        dim=dim,
        depth=config["n_layer"],
        heads=config["n_head"],
        mlp_dim=4 * dim,
        task_tokens=False,
        two_way_prefix=config["n_unmasked"] > 0,
    )
    model = GPT(options, shapes, Given(dim)).eval()
    weights = {name.removeprefix("sd/"): value for name, value in arrays.items() if name.startswith("sd/")}
    state = {
        "embedding.weight": weights["tok_emb.weight"],
        "positions": weights["pos_emb"][:, prefix - 1 :],
        "norm.weight": weights["ln_f.weight"],
        "norm.bias": weights["ln_f.bias"],
        "head.weight": weights["head.weight"],
    }
    for i in range(config["n_layer"]):
        for kind in ("weight", "bias"):
            block = f"blocks.{i}"
            attention = [weights[f"{block}.attn.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{block}.attention.qkv.{kind}"] = torch.cat(attention)
            state[f"{block}.attention.out.{kind}"] = weights[f"{block}.attn.proj.{kind}"]
            for n in (1, 2):
                state[f"{block}.norm{n}.{kind}"] = weights[f"{block}.ln{n}.{kind}"]
            for n in (0, 2):
                state[f"{block}.mlp.{n}.{kind}"] = weights[f"{block}.mlp.{n}.{kind}"]
    model.load_state_dict(state)
    return model


def context(arrays: Mapping[str, Any], vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """A prefix with the positions that are not the prior's."""
    places = arrays["sd/pos_emb"][:, : vectors.shape[1]].clone()
    places[:, -1] = 0
    return {"context": vectors + places}


def logits_everywhere(model: GPT, inputs: Mapping[str, Any], tokens: torch.Tensor) -> torch.Tensor:
    """Those of the prefix too, which predict nothing here but count in the published loss."""
    prefix = model._prefix(inputs, len(tokens), "generation")
    return model._run(torch.cat([prefix, model._embed(tokens[:, :-1])], 1), prefix.shape[1])


def tokens_as_context(arrays: Mapping[str, Any], count: int) -> dict[str, torch.Tensor]:
    return context(arrays, F.embedding(arrays["idx"][:, :count], arrays["sd/tok_emb.weight"]))


@pytest.mark.parametrize("file", FILES)
def test_logits_and_loss(golden: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = load(golden / "vqgan" / file)
    prefix = max(1, arrays["config"]["n_unmasked"])
    tokens = F.pad(arrays["idx"][:, prefix:], (0, 1))  # the last one is predicted, never read
    model, inputs = prior(arrays, prefix), tokens_as_context(arrays, prefix)
    logits = logits_everywhere(model, inputs, tokens)
    torch.testing.assert_close(logits, arrays["logits"], atol=2e-5, rtol=0)
    torch.testing.assert_close(model.logits(inputs, tokens, "generation"), logits[:, prefix - 1 :], atol=0, rtol=0)
    monkeypatch.setattr(model, "logits", lambda *_: logits)  # the targets are not the tokens that the model read
    spec = CodeSpec((Segment("codes", logits.shape[1], 1, logits.shape[2]),))
    loss = model.loss(inputs, Codes(arrays["targets"][..., None], spec), "generation")["nll"]
    torch.testing.assert_close(loss, arrays["loss"], atol=0, rtol=1e-5)


@pytest.mark.parametrize("file", FILES)
def test_filter_of_the_best_five(golden: Path, file: str) -> None:
    arrays = load(golden / "vqgan" / file)
    assert torch.equal(filter_logits(arrays["logits"][:, -1], top_k=5), arrays["top5_logits_last"])


@pytest.mark.parametrize("file", FILES)
def test_logits_after_a_longer_prefix(golden: Path, file: str) -> None:
    """Where more positions see each other than the prefix has, the first tokens belong to it."""
    arrays = load(golden / "vqgan" / file)
    vectors, tokens = arrays["prefix_embeddings"], arrays["idx"][:, : -arrays["prefix_embeddings"].shape[1]]
    more = max(0, arrays["config"]["n_unmasked"] - vectors.shape[1])
    vectors = torch.cat([vectors, F.embedding(tokens[:, :more], arrays["sd/tok_emb.weight"])], 1)
    model = prior(arrays, vectors.shape[1])
    logits = logits_everywhere(model, context(arrays, vectors), F.pad(tokens[:, more:], (0, 1)))
    torch.testing.assert_close(logits, arrays["logits_with_prefix"], atol=2e-5, rtol=0)


def test_greedy_codes_written_with_a_cache(golden: Path) -> None:
    arrays = load(golden / "vqgan" / FILES[0])
    settings, seeds = SampleSettings(temperature=0.0), torch.arange(len(arrays["idx"]))
    ids = prior(arrays, 1).sample(tokens_as_context(arrays, 1), "generation", settings, seeds).ids[..., 0]
    wanted = arrays["greedy_from_first_token"]
    assert torch.equal(ids[:, : wanted.shape[1]], wanted)


@pytest.mark.parametrize(
    ("depth", "dim", "heads", "vocab_size", "length", "millions", "digit"),
    [
        (24, 1024, 16, 1024, 512, 305, 1),  # FacesHQ, D-RIN
        (24, 1664, 16, 1024, 256, 802, 1),  # FFHQ, CelebA-HQ
        (40, 1408, 16, 8192, 348, 976, 1),  # COCO with scenes
        (36, 1536, 16, 8192, 348, 1046, 1),  # Open Images with scenes
        (48, 1536, 24, 16384, 256, 1410.6, 0.1),  # ImageNet
    ],
)
def test_published_sizes(
    depth: int, dim: int, heads: int, vocab_size: int, length: int, millions: float, digit: float
) -> None:
    with torch.device("meta"):
        shapes = Shapes((256, 256), {"generation": 3}, CodeSpec((Segment("codes", length, 1, vocab_size),)))
        config = GPT.Config(dim=dim, depth=depth, heads=heads, mlp_dim=4 * dim, task_tokens=False)
        model = GPT(config, shapes, Given(dim))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=digit / 2)
