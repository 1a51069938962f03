"""Every registered quantizer with every registered prior: trained, loaded, sampled, through recipes alone.

A part of a plugin joins by itself, with the options that its TESTING gives (else small values of the usual ones).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import Project, log

from cynosure.build import Session, build_model
from cynosure.config.recipe import Recipe, load_recipe
from cynosure.errors import CynosureError
from cynosure.host import Host, load_host
from cynosure.run.loading import load
from cynosure.run.predictor import Predictor
from cynosure.testing.checks import small_options
from cynosure.train.loop import train

PICTURES = """
schema: 1
image_size: 16
data:
  scenes: {name: scenes, size: 16, train: 12, validation: 4, test: 4}
tasks:
  generation: {data: scenes, batch_size: 4}
model:
  tokenizer: {name: maskgit, channels: 32, multipliers: [1, 1, 1], blocks: 1, quantizer: fsq}
  base: {name: maskgit, channels: 32, multipliers: [1, 1, 1], blocks: 1}
train:
  codes: {steps: 3, lr: 3e-3}
  prior: {steps: 3, lr: 1e-2, views: 0}
  log_every: 1
eval: {batch_size: 4, sampling: {temperature: 1.0}}
"""
TRANSFORMER = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
QUANTIZERS: Mapping[str, Mapping[str, Any]] = {
    "rq": {"vocab_size": 16, "dim": 8, "depth": 2},
    "fsq": {"levels": [5, 4]},
    "lfq": {"bits": 4},
    "bsq": {"bits": 6, "groups": 2},
    "multiscale": {"vocab_size": 16, "dim": 8, "scales": [1, 2, 4]},
    "latent": {"sizes": [6, 4, 5]},
}
PRIORS: Mapping[str, Mapping[str, Any]] = {
    "rq_transformer": {**TRANSFORMER, "head_depth": 1, "embedding": "separate"},
}
"""Where small values of the usual options are none that fit every partner."""
ONLY_WITH = {"next_scale": {"multiscale"}}
"""Parts that fit certain partners only."""
DEPTH = {
    "image_size": 16,
    "data.scenes": {"name": "scenes", "size": 16, "train": 12, "validation": 4, "test": 4},
    "tasks.depth.batch_size": 4,
    "model.tokenizer": {"name": "vit_oracle", **TRANSFORMER, "patch": 8, "code_grid": [2, 2], "norm": "batch"},
    "train.stages": ["codes", "prior"],
    "train.codes.steps": 3,
    "train.prior.steps": 3,
    "train.log_every": 1,
}
STEM = {"stem": [8, 16]}
GUIDED = [
    ("vq", "autoregressive", {"name": "hybrid", **STEM}),
    ("rq", "rq_transformer", {"name": "hybrid", **STEM}),
    ("fsq", "masked", {"name": "vit", "patch": 8}),
    ("latent", "gpt", {"name": "vit", "patch": 8}),
    ("multiscale", "next_scale", {"name": "hybrid", **STEM}),
    ("bsq", "masked", {"name": "hybrid", **STEM}),
]
STRANGERS = """
import torch
from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Prior, Quantizer
from cynosure.core.decoding import row_uniforms
from cynosure.core.records import Codes, Quantized

class Signs(Quantizer):
    TESTING = {"options": {"numbers": 3}}

    class Config(PartConfig):
        numbers: int

    def __init__(self, config):
        super().__init__()
        self.dim, self.depth, self.vocab_size = config.numbers, config.numbers, 2

    def forward(self, vectors):
        ids = (vectors > 0).long()
        usage = torch.bincount(ids.flatten(), minlength=2)
        return Quantized(vectors + (self.lookup(ids) - vectors).detach(), ids, {}, usage)

    def lookup(self, ids):
        return 2.0 * ids - 1

class Chance(Prior):
    class Config(PartConfig):
        pass

    def __init__(self, config, shapes, encoder):
        super().__init__()
        self.spec = shapes.spec
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def loss(self, inputs, codes, task):
        return {"nll": self.scale.square() + self.spec.limits().double().log().mean().float()}

    def sample(self, inputs, task, settings, seeds):
        limits = self.spec.limits()
        uniforms = row_uniforms(seeds, limits.numel()).view(-1, *limits.shape)
        return Codes((uniforms * limits).long(), self.spec)

@hookimpl
def cynosure_register(register):
    register.quantizer("signs", Signs)
    register.prior("chance", Chance)
"""


@dataclass
class Matrix:
    """Trains pairs on pictures made from nothing; the codes of a quantizer are trained once for all priors."""

    host: Host
    folder: Path
    sources: dict[str, Path] = field(default_factory=dict)

    def options(self, kind: str, name: str) -> dict[str, Any]:
        known = {"quantizer": QUANTIZERS, "prior": PRIORS}[kind]
        return {"name": name, **(known[name] if name in known else small_options(self.host, kind, name))}

    def recipe(self, quantizer: str, prior: str | None, **values: Any) -> Recipe:
        file = self.folder / "pictures.yaml"
        file.write_text(PICTURES)
        model = {"model.tokenizer.quantizer": self.options("quantizer", quantizer)}
        model |= {"model.prior": prior and self.options("prior", prior)}
        return load_recipe(file, sets({**model, **values}), self.host)

    def refusal(self, quantizer: str, prior: str) -> str:
        """Why the two do not fit, or ''."""
        try:
            build_model(self.recipe(quantizer, prior), self.host)
        except CynosureError as error:
            return str(error)
        return ""

    def train(self, name: str, recipe: Recipe) -> Path:
        run = train(Session.open(recipe, self.host), self.folder / name)
        losses = [value for line in log(run.directory) for key, value in line.items() if key.endswith("/loss")]
        assert losses and np.isfinite(losses).all(), f"the losses of {name} are not finite: {losses}"
        return run.directory

    def codes(self, quantizer: str) -> Path:
        if quantizer not in self.sources:
            recipe = self.recipe(quantizer, None, **{"train.stages": ["codes"]})
            self.sources[quantizer] = self.train(quantizer, recipe)
        return self.sources[quantizer]

    def trained(self, quantizer: str, prior: str) -> Predictor:
        begin = {"init.from": str(self.codes(quantizer)), "train.stages": ["prior"]}
        folder = self.train(f"{quantizer}-{prior}", self.recipe(quantizer, prior, **begin))
        return load(folder, host=self.host)


def sets(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def require_codes_within_limits(predictor: Predictor, codes: np.ndarray) -> None:
    """`codes` are [samples, L, D]."""
    assert predictor.model.tokenizer is not None
    limits = predictor.model.tokenizer.spec.limits().numpy()
    assert codes.shape[1:] == limits.shape, f"codes are {codes.shape[1:]}, the tokenizer's {limits.shape}"
    assert ((codes >= 0) & (codes < limits)).all(), "the prior writes codes that do not exist"


def drawn(predictor: Predictor, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four pictures and their codes."""
    samples = predictor.generate(samples=4, seed=seed)
    return np.stack([s.values["rgb"] for s in samples]), np.stack([s.codes for s in samples])


def require_samples(predictor: Predictor) -> None:
    """Seeds decide, codes exist."""
    pictures, codes = drawn(predictor, 0)
    again, _ = drawn(predictor, 0)
    others, _ = drawn(predictor, 1)
    require_codes_within_limits(predictor, codes)
    assert np.isfinite(pictures).all(), "pictures are not finite"
    assert np.array_equal(pictures, again), "the same seed makes other pictures"
    assert not np.array_equal(pictures, others), "another seed makes the same pictures"


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(load_host(strict=True), tmp_path_factory.mktemp("matrix"))


def pairs() -> list[tuple[str, str]]:
    components = load_host().components
    return list(product(components.names("quantizer"), components.names("prior")))


@pytest.mark.parametrize(("quantizer", "prior"), pairs(), ids=["-".join(pair) for pair in pairs()])
def test_a_pair_trains_and_samples(matrix: Matrix, quantizer: str, prior: str) -> None:
    if reason := matrix.refusal(quantizer, prior):
        assert quantizer not in ONLY_WITH.get(prior, {quantizer}), f"{quantizer} and {prior} should fit: {reason}"
        assert reason.endswith(".") and "\n" not in reason, f"say in one sentence why the two do not fit: {reason}"
        assert any(partner in reason for partner in ONLY_WITH[prior]), f"say what fits {prior}: {reason}"
    else:
        require_samples(matrix.trained(quantizer, prior))


def test_parts_of_a_plugin_join_by_themselves(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.plugin("strangers", STRANGERS)
    matrix = Matrix(load_host(project.registry, strict=True), tmp_path)
    for pair in (("signs", "gpt"), ("signs", "masked"), ("vq", "chance"), ("signs", "chance")):
        require_samples(matrix.trained(*pair))
    assert "multiscale" in matrix.refusal("signs", "next_scale")


@pytest.mark.parametrize(("quantizer", "prior", "base"), GUIDED, ids=[f"{q}-{p}" for q, p, _ in GUIDED])
def test_depth_is_guided_by_the_codes_of_a_pair(
    matrix: Matrix, quantizer: str, prior: str, base: Mapping[str, Any], tmp_path: Path
) -> None:
    parts = {
        "model.base": {**TRANSFORMER, **base},
        "model.prior": {**matrix.options("prior", prior), "encoder": {**TRANSFORMER, **base}},
    }
    scales = {"scales": [1, 2]} if quantizer == "multiscale" else {}
    tokenizer = {**DEPTH["model.tokenizer"], "quantizer": {**matrix.options("quantizer", quantizer), **scales}}
    recipe = load_recipe("depth/tiny", sets({**DEPTH, **parts, "model.tokenizer": tokenizer}), matrix.host)
    predictor = load(matrix.train(f"depth-{quantizer}-{prior}", recipe), host=matrix.host)
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    answers, again, others = (predictor.predict(picture, samples=4, seed=s, temperature=1.0) for s in (0, 0, 1))
    codes = [np.stack([answer.codes for answer in each]) for each in (answers, again, others)]
    require_codes_within_limits(predictor, codes[0])
    assert np.array_equal(codes[0], codes[1]) and not np.array_equal(codes[0], codes[2]), "seeds do not decide"
    depth = torch.tensor(answers[0].values["depth"])
    assert depth.shape == (20, 30) and bool((depth > 0).all()), "depth is positive, at the size of the picture"
