"""Prior `rq_transformer` against arrays computed by the published RQ-Transformer code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cynosure.core.contracts import Encoder, Quantizer
from cynosure.core.decoding import filter_logits
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure.testing.samples import Oracle
from cynosure_plugins.priors.rq_transformer import RQTransformer

Arrays = Mapping[str, np.ndarray]
FILES = ["class_cond", "text_cond", "token_embeddings"]
TASK = "image"
TEXT_LOSS = 1 / 9
GREEDY = SampleSettings(temperature=0.0)
PARAMETERS = [  # width, body, head, heads, K, conditions, million parameters, counted of the published configurations
    (1024, 24, 4, 16, 2048, 1, 355.4),  # FFHQ, unconditional: a learnt start
    (1024, 24, 4, 16, 16384, 1, 370.1),  # churches
    (1280, 26, 4, 20, 16384, 1, 612.1),  # cats, bedrooms
    (1536, 12, 4, 24, 16384, 1000, 480.9),  # ImageNet
    (1536, 24, 4, 24, 16384, 1000, 820.9),
    (1536, 42, 6, 24, 16384, 1000, 1387.5),
    (2560, 42, 6, 40, 16384, 1000, 3822.5),
]


class Condition(Encoder):
    """The published condition: an embedding and a position for every token."""

    def __init__(self, vocab_size: int, length: int, dim: int) -> None:
        super().__init__()
        self.dim, self.vocab_size = dim, vocab_size
        self.embedding = nn.Embedding(vocab_size, dim)
        self.positions = nn.Parameter(torch.zeros(1, length, dim))

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.embedding(inputs["condition"]) + self.positions

    def tokens(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return inputs["condition"]


class Book(Quantizer):
    """The codewords of a shared codebook."""

    def __init__(self, codewords: torch.Tensor, depth: int) -> None:
        super().__init__()
        self.table, self.depth = codewords, depth

    def code_vectors(self) -> torch.Tensor:
        return self.table[None]

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids].sum(2)

    def forward(self, vectors: torch.Tensor) -> Any:
        raise NotImplementedError


@dataclass
class Case:
    """The arrays of one model, and that model."""

    arrays: Arrays
    prior: RQTransformer
    spec: CodeSpec

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        return {"condition": torch.from_numpy(self.arrays["cond"])}

    def codes(self, name: str = "codes") -> torch.Tensor:
        return torch.from_numpy(self.arrays[name]).flatten(1, 2)

    def logits(self, codes: torch.Tensor) -> np.ndarray:
        return self.prior.logits(self.inputs, codes.flatten(1), TASK).detach().numpy()

    def wanted(self, name: str) -> np.ndarray:
        values = self.arrays[name]
        return values.reshape(len(values), -1, values.shape[-1])


def blocks(arrays: Arrays, published: str, ours: str, count: int) -> dict[str, np.ndarray]:
    """Weights of a stack of blocks; query, key and value are one layer here."""
    weights = {}
    for i in range(count):
        for kind in ("weight", "bias"):
            old, new = f"sd/{published}_transformer.blocks.{i}", f"{ours}.{i}"
            parts = [arrays[f"{old}.attn.{name}.{kind}"] for name in ("query", "key", "value")]
            weights[f"{new}.attention.qkv.{kind}"] = np.concatenate(parts)
            weights[f"{new}.attention.out.{kind}"] = arrays[f"{old}.attn.proj.{kind}"]
            for a, b in (("ln1", "norm1"), ("ln2", "norm2"), ("mlp.0", "mlp.0"), ("mlp.2", "mlp.2")):
                weights[f"{new}.{b}.{kind}"] = arrays[f"{old}.{a}.{kind}"]
    return weights


def weights(arrays: Arrays, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The published state by our names."""
    found = {
        "positions": arrays["sd/pos_emb_hw"],
        "depths": arrays["sd/pos_emb_d"],
        "encoder.embedding.weight": arrays["sd/cond_emb.weight"],
        "encoder.positions": arrays["sd/pos_emb_cond"],
        **blocks(arrays, "body", "body", config["body"]["n_layer"]),
        **blocks(arrays, "head", "head", config["head"]["n_layer"]),
    }
    for kind in ("weight", "bias"):
        found[f"norm.{kind}"] = arrays[f"sd/classifier.layer_norm.{kind}"]
        if config["input_emb_vqvae"]:
            found[f"body_input.{kind}"] = arrays[f"sd/input_mlp.{kind}"]
            found[f"head_input.{kind}"] = arrays[f"sd/head_mlp.{kind}"]
        if f"sd/cond_classifier.linear.{kind}" in arrays:
            found[f"text_head.0.{kind}"] = arrays[f"sd/cond_classifier.layer_norm.{kind}"]
            found[f"text_head.1.{kind}"] = arrays[f"sd/cond_classifier.linear.{kind}"]
        classifier = arrays[f"sd/classifier.linear.{kind}"]
        parts = [classifier] if config["shared_cls_emb"] else [np.swapaxes(part, -1, 0) for part in classifier]
        found |= {f"classifiers.{i}.{kind}": part for i, part in enumerate(parts)}
    if not config["input_emb_vqvae"]:
        found["embedding.weight"] = arrays["sd/tok_emb.weight"]
    return {name: torch.tensor(value) for name, value in found.items()}


@pytest.fixture(params=FILES)
def case(request: pytest.FixtureRequest, golden: Path) -> Case:
    with np.load(golden / "rqtransformer" / f"{request.param}.npz") as file:
        arrays = dict(file)
    config = json.loads(str(arrays["config"]))
    rows, columns, depth = config["block_size"]
    dim, K = config["embed_dim"], config["vocab_size"]
    spec = CodeSpec((Segment("codes", rows * columns, depth, K),), (rows, columns))
    shapes = Shapes((8, 8), {TASK: 3}, spec, config["input_embed_dim"])
    options = RQTransformer.Config(
        dim=dim,
        depth=config["body"]["n_layer"],
        head_depth=config["head"]["n_layer"],
        heads=config["body"]["block"]["n_head"],
        mlp_dim=4 * dim,
        embedding="codebook" if config["input_emb_vqvae"] else "separate",
        cumulative=config["cumsum_depth_ctx"],
        classifiers="shared" if config["shared_cls_emb"] else "separate",
        text_loss=TEXT_LOSS if config["block_size_cond"] > 1 else 0.0,
        task_tokens=False,
    )
    encoder = Condition(config["vocab_size_cond"], config["block_size_cond"], dim)
    prior = RQTransformer(options, shapes, encoder).eval()
    prior.load_state_dict(weights(arrays, config))
    oracle = Oracle(shapes)
    oracle.quantizer = Book(torch.from_numpy(arrays["codebook"][:K]), depth)
    prior.attach(oracle)
    return Case(arrays, prior, spec)


def test_logits(case: Case) -> None:
    np.testing.assert_allclose(case.logits(case.codes()), case.wanted("logits"), atol=2e-5, rtol=0)


def test_what_goes_through_body_and_head(case: Case) -> None:
    taps: dict[str, torch.Tensor] = {}
    for name, part in (("body", case.prior.body), ("head", case.prior.head)):
        part[0].register_forward_pre_hook(lambda _, given, name=name: taps.update({f"{name}_in": given[0].detach()}))
        part[-1].register_forward_hook(lambda _, given, out, name=name: taps.update({f"{name}_out": out.detach()}))
    case.logits(case.codes())
    assert len(taps) == 4
    for name, found in taps.items():
        np.testing.assert_allclose(found, case.arrays[name], atol=2e-5, rtol=0, err_msg=name)


def test_losses(case: Case) -> None:
    soft = torch.from_numpy(case.arrays["soft_targets"]).flatten(1, 2)
    hard = case.prior.loss(case.inputs, Codes(case.codes(), case.spec), TASK)["nll"]
    softened = case.prior.loss(case.inputs, Codes(case.codes(), case.spec, soft), TASK)["nll"]
    np.testing.assert_allclose(hard.detach(), case.arrays["loss_hard"], rtol=1e-5)
    np.testing.assert_allclose(softened.detach(), case.arrays["loss_soft"], rtol=1e-5)


def test_loss_of_every_depth(case: Case) -> None:
    """Of the logits at one depth and of targets that are certain; a loss that is asked for is the mean over depths."""
    codes = case.codes()
    logits = case.prior._predict(*case.prior._read(case.inputs, codes, TASK)).detach()
    certain = F.one_hot(codes, case.spec.vocab_size).float()
    for d, wanted in enumerate(case.arrays["codebook_loss"]):
        depth = slice(d, d + 1)
        found = case.prior._nll(logits[:, :, depth], Codes(codes, case.spec, certain[:, :, depth]))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, err_msg=f"depth {d}")


@pytest.mark.parametrize("case", ["text_cond"], indirect=True)
def test_what_the_body_says_of_the_text(case: Case) -> None:
    codes, text = Codes(case.codes(), case.spec), case.inputs["condition"]
    read, _ = case.prior._read(case.inputs, codes.ids, TASK)
    logits = case.prior.text_logits(read, text.shape[1]).detach()
    np.testing.assert_allclose(logits, case.arrays["cond_logits"], atol=2e-5, rtol=0)
    losses = case.prior.loss(case.inputs, codes, TASK)
    np.testing.assert_allclose(losses["text"].detach() / TEXT_LOSS, case.arrays["cond_loss"], rtol=1e-5)


def test_greedy_codes_and_their_logits(case: Case) -> None:
    codes = case.prior.sample(case.inputs, TASK, GREEDY, torch.zeros(2, dtype=torch.long))
    assert torch.equal(codes.ids, case.codes("greedy")), "sampling with caches writes other codes than the published"
    np.testing.assert_allclose(case.logits(codes.ids), case.wanted("greedy_logits"), atol=2e-5, rtol=0)


def test_going_on_after_the_first_row(case: Case) -> None:
    known = case.codes().clone()
    assert case.spec.grid is not None
    known[:, case.spec.grid[1] :] = -1
    settings = SampleSettings(temperature=0.0, known=known)
    codes = case.prior.sample(case.inputs, TASK, settings, torch.zeros(2, dtype=torch.long))
    assert torch.equal(codes.ids, case.codes("greedy_from_row1"))


def test_sampling_filters(golden: Path) -> None:
    arrays = np.load(golden / "rqtransformer" / "sampling_filters.npz")
    logits = torch.from_numpy(arrays["logits"])
    names = [name for name in arrays.files if name.startswith("probs_")]
    assert names
    for name in names:
        temperature, top_k, top_p = (float(part[1:]) for part in name.split("_")[1:])
        found = filter_logits(logits / temperature, int(top_k), top_p).softmax(-1)
        np.testing.assert_allclose(found, arrays[name], atol=1e-6, err_msg=name)
    kept = filter_logits(torch.from_numpy(arrays["tied_logits"]), top_k=1).isfinite()
    np.testing.assert_array_equal(kept, arrays["tied_top1_kept"], err_msg="ties with the k-th logit must all be kept")


def soft_loss(logits: torch.Tensor, targets: np.ndarray) -> torch.Tensor:
    """What a prior that predicts logits [L, K] makes of targets [L, K]."""
    length, size = logits.shape
    spec = CodeSpec((Segment("codes", length, 1, size),))
    options = RQTransformer.Config(dim=8, depth=1, head_depth=1, heads=1, mlp_dim=8, embedding="shared")
    prior = RQTransformer(options, Shapes((8, 8), {TASK: 3}, spec), None)
    prior._predict = lambda read, vectors: logits[None, :, None]  # type: ignore[method-assign]
    ids = torch.zeros(1, length, 1, dtype=torch.long)
    return prior.loss({}, Codes(ids, spec, torch.from_numpy(targets)[None, :, None]), TASK)["nll"]


def test_soft_target_cross_entropy(golden: Path) -> None:
    """The loss itself; the published one adds 1e-7 inside a logarithm, which these tolerances allow for."""
    arrays = np.load(golden / "rqtransformer" / "soft_target_ce.npz")
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    loss = soft_loss(logits, arrays["targets"])
    loss.backward()
    np.testing.assert_allclose(loss.detach(), arrays["loss"], rtol=1e-5)
    np.testing.assert_allclose(logits.grad, arrays["grad"], atol=1e-6)


def test_soft_target_cross_entropy_of_every_code(golden: Path) -> None:
    arrays = np.load(golden / "rqtransformer" / "soft_target_ce.npz")
    for logits, targets, wanted in zip(arrays["logits"], arrays["targets"], arrays["per_item"], strict=True):
        found = soft_loss(torch.from_numpy(logits[None]), targets[None])
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_entropy_of_soft_targets(golden: Path) -> None:
    """What the loss cannot fall below; the published one adds 1e-10 inside the logarithm."""
    arrays = np.load(golden / "rqtransformer" / "soft_target_ce.npz")
    length, size = arrays["targets"].shape
    spec = CodeSpec((Segment("codes", 1, 1, size),))
    for targets, wanted in zip(arrays["targets"], arrays["entropy"], strict=True):
        codes = Codes(torch.zeros(1, 1, 1, dtype=torch.long), spec, torch.from_numpy(targets)[None, None, None])
        np.testing.assert_allclose(codes.entropy(), wanted, rtol=1e-5)
    codes = Codes(torch.zeros(length, 1, 1, dtype=torch.long), spec, torch.from_numpy(arrays["targets"])[:, None, None])
    np.testing.assert_allclose(codes.entropy(), arrays["entropy"].mean(), rtol=1e-5)


@pytest.mark.parametrize(("dim", "depth", "head_depth", "heads", "size", "conditions", "millions"), PARAMETERS)
def test_published_sizes(
    dim: int, depth: int, head_depth: int, heads: int, size: int, conditions: int, millions: float
) -> None:
    """8 x 8 x 4 codes with codewords of width 256."""
    options = RQTransformer.Config(
        dim=dim, depth=depth, head_depth=head_depth, heads=heads, mlp_dim=4 * dim, task_tokens=False
    )
    spec = CodeSpec((Segment("codes", 64, 4, size),), (8, 8))
    with torch.device("meta"):
        prior = RQTransformer(options, Shapes((256, 256), {TASK: 3}, spec, 256), Condition(conditions, 1, dim))
    count = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
    assert round(count, 1) == millions


def test_published_size_of_the_text_model() -> None:
    """The one for CC3M: 32 of 16384 text tokens, and a classifier of its own for them."""
    options = RQTransformer.Config(
        dim=1280, depth=26, head_depth=4, heads=20, mlp_dim=5120, task_tokens=False, text_loss=TEXT_LOSS
    )
    spec = CodeSpec((Segment("codes", 64, 4, 16384),), (8, 8))
    with torch.device("meta"):
        prior = RQTransformer(options, Shapes((256, 256), {TASK: 3}, spec, 256), Condition(16384, 32, 1280))
    assert round(sum(parameter.numel() for parameter in prior.parameters()) / 1e6, 1) == 654.1
