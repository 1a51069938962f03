"""Runs with a perceptual and an adversarial loss: they learn, resume bit for bit, and go on over processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import CODES_ONLY, Project, log, resumed_from, same, weights

from cynosure.errors import TrainingError
from cynosure.run.loading import load

RECIPE = """
schema: 1
image_size: 32
data:
  scenes: {name: scenes, size: 32, train: 12, validation: 4, test: 4}
tasks:
  generation: {data: scenes, batch_size: 2, l1: 1.0, l2: 0.0}
model:
  tokenizer:
    name: vqgan
    channels: 32
    multipliers: [1, 1]
    blocks: 1
    attention: []
    z_channels: 8
    quantizer: {name: vq, vocab_size: 16, dim: 8}
  base: {name: vqgan, channels: 32, multipliers: [1, 1], blocks: 1, attention: [], z_channels: 8}
  criteria:
  - {name: lpips, network: random}
  - {name: adversarial, channels: 4, layers: 2, start: 4, lead: 2, ramp: 0, lecam: 0.01}
train:
  stages: [codes]
  codes: {steps: 8, lr: 2.0e-3, betas: [0.5, 0.9], accumulate: 2, ema: 0.5, clip: 0}
  save_every: 3
  log_every: 1
  keep: 100
"""
STEPS = "criteria.1.steps"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a finished run of a tiny VQGAN."""
    project = Project(tmp_path_factory.mktemp("criteria"))
    project.recipe.write_text(RECIPE)
    project.train("run")
    return project


def test_reconstruction_gets_better_and_terms_come_in_their_phases(tokenizer: Project) -> None:
    lines = [line for line in log(tokenizer.folder / "run") if "generation/l1" in line]
    assert lines[-1]["generation/l1"] < lines[0]["generation/l1"]
    assert lines[-1]["generation/lpips"] < lines[0]["generation/lpips"]
    assert [line["generation/discriminator"] > 0 for line in lines] == [False] * 2 + [True] * 6
    assert ["generation/generator" in line for line in lines] == [False] * 4 + [True] * 4


def test_checkpoints_hold_the_discriminator_and_its_steps_but_no_frozen_network(tokenizer: Project) -> None:
    found = weights(tokenizer.folder / "run")
    assert found[STEPS] == 8
    kinds = {name.split(".")[2] for name in found if name.startswith("criteria.")}
    assert kinds == {"discriminator", "steps", "anchors"}


def test_resuming_gives_the_run_that_never_stopped(tokenizer: Project) -> None:
    finished = tokenizer.folder / "run"
    run = resumed_from(finished, "0-codes-00000003", tokenizer)
    assert weights(run / "checkpoints" / "0-codes-00000003")[STEPS] == 3
    tokenizer.train(run.name, resume=True)
    assert same(weights(run), weights(finished))


def test_a_trained_run_predicts_without_criteria(tokenizer: Project) -> None:
    assert not load(tokenizer.folder / "run", tokenizer.registry).model.criteria


def test_a_run_without_criteria_goes_on_from_one_with_them(tokenizer: Project) -> None:
    run = tokenizer.train("plain", "model.criteria=null", f"init={{from: {tokenizer.folder / 'run'}}}")
    assert not [name for name in run.taken if name.startswith("criteria")]
    again = tokenizer.train("again", f"init={{from: {tokenizer.folder / 'run'}}}", "train.codes.steps=1")
    assert again.model.criteria[1].steps == 9, "a discriminator that was taken over is past its warm-up"


def test_mistakes_end_a_run_before_its_first_step(tokenizer: Project) -> None:
    with pytest.raises(TrainingError, match=r"lr_scale.*criteria"):
        tokenizer.train("wrong", "train.codes.lr_scale={criterion: 0.5}")


SPIES = """
import hashlib
from cynosure import hookimpl

@hookimpl
def cynosure_train_end(run, error):
    content = b"".join(v.numpy().tobytes() for v in run.model.state_dict().values())
    (run.directory / f"rank{run.accelerator.process_index}").write_text(hashlib.sha256(content).hexdigest())
"""


def test_two_processes_keep_one_discriminator(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.plugin("spies", SPIES)
    sets = (*CODES_ONLY, "tasks.depth=null", "tasks.colorization.encoding=rgb", "train.codes.ema=0")
    criteria = [
        {"name": "lpips", "network": "random"},
        {"name": "adversarial", "channels": 4, "layers": 2, "start": 2, "lead": 0, "ramp": 0},
    ]
    criteria[1]["norm"] = "act"
    arguments = [part for each in (*sets, f"model.criteria={json.dumps(criteria)}") for part in ("--set", each)]
    done = project.command("train", "recipe.yaml", "-o", "run", *arguments, processes=2)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / "run" / f"rank{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert weights(tmp_path / "run")[STEPS] == 5
    assert bool(torch.stack([t.isfinite().all() for t in weights(tmp_path / "run").values()]).all())
