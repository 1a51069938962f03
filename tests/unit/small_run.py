"""A run small enough for unit tests: depth and colorization of 16-pixel scenes, four codes out of eight, untrained."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cynosure.build import Session, build_model
from cynosure.config.recipe import load_recipe
from cynosure.core.guided import GuidedModel
from cynosure.host import Host, load_host
from cynosure.run.predictor import Predictor
from cynosure.train.checkpoint import write_tensors
from cynosure.train.saving import FORMAT

RECIPE = """
schema: 1
image_size: 16
data:
  scenes: {name: scenes, size: 16, train: 12, validation: 4, test: 10}
tasks:
  depth: {data: scenes, encoding: log, min_depth: 1.0, max_depth: 16.0, augment: none}
  colorization: {data: scenes, encoding: residual, augment: none}
model:
  tokenizer:
    name: vit_oracle
    patch: 8
    dim: 16
    depth: 1
    heads: 2
    mlp_dim: 32
    code_grid: [2, 2]
    context: false
    quantizer: {name: vq, vocab_size: 8, dim: 4}
  base: {name: hybrid, dim: 16, depth: 1, heads: 2, mlp_dim: 32, stem: [8, 16]}
  prior:
    name: autoregressive
    dim: 16
    depth: 1
    heads: 2
    mlp_dim: 32
    encoder: {name: hybrid, dim: 16, depth: 1, heads: 2, mlp_dim: 32, stem: [8, 16]}
eval: {batch_size: 4}
"""

PAINTER = (
    "model.tokenizer={name: vqgan, channels: 32, multipliers: [1, 2], blocks: 1, attention: [], z_channels: 32,"
    " quantizer: {name: vq, vocab_size: 16, dim: 4}}",
    "model.base={name: vqgan, channels: 32, multipliers: [1, 2], blocks: 1, attention: [], z_channels: 4}",
)
"""Overrides: a tokenizer and a base that make whole pictures."""


def open_session(folder: Path, *sets: str, host: Host | None = None) -> Session:
    file = folder / "recipe.yaml"
    file.write_text(RECIPE)
    host = host or load_host()
    return Session.open(load_recipe(file, sets, host), host)


def make_model(session: Session, seed: int = 0) -> GuidedModel:
    """All weights random, because a head that starts at zero hides what is behind it."""
    torch.manual_seed(seed)
    model = build_model(session.recipe, session.host)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.set_stage(None)
    return model


def make_predictor(session: Session) -> Predictor:
    return Predictor(make_model(session), session.recipe, session.host)


def save_run(session: Session, folder: Path, **changes: str) -> GuidedModel:
    """A run folder as training leaves it; `changes` replace what the file says about itself."""
    model = make_model(session)
    told = {
        "format": FORMAT,
        "recipe": session.recipe.to_yaml(),
        "plugins": json.dumps({p.name: p.version for p in session.host.plugins}),
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", model.state_dict(), told)
    return model
