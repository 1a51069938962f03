"""A project folder with a run that trains in a second: all three stages, two tasks, 16-pixel scenes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cynosure.build import Session
from cynosure.config.recipe import load_recipe
from cynosure.host import load_host
from cynosure.progress import Progress
from cynosure.train.checkpoint import MODEL, read_tensors
from cynosure.train.loop import Evaluate, Run, train

RECIPE = """
schema: 1
image_size: 16
data:
  scenes: {name: scenes, size: 16, train: 12, validation: 4, test: 4}
tasks:
  depth: {data: scenes, batch_size: 2, encoding: log, min_depth: 1.0, max_depth: 16.0, augment: flip}
  colorization: {data: scenes, batch_size: 2, encoding: residual, augment: flip}
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
    norm: batch
    quantizer: {name: vq, vocab_size: 8, dim: 4, warmup_steps: 3, min_count: 1.0, commitment: 0.25}
  base: {name: hybrid, dim: 16, depth: 1, heads: 2, mlp_dim: 32, stem: [8, 16]}
  prior:
    name: autoregressive
    dim: 16
    depth: 1
    heads: 2
    mlp_dim: 32
    encoder: {name: hybrid, dim: 16, depth: 1, heads: 2, mlp_dim: 32, stem: [8, 16]}
  code_dropout: 0.5
train:
  stages: [codes, prior, refit]
  codes: {steps: 5, lr: 1e-2, warmup: 2, accumulate: 2, ema: 0.9}
  prior: {steps: 5, lr: 1e-2, warmup: 1, accumulate: 2, views: 2, optimizer: muon}
  refit: {steps: 4, lr: 1e-2, accumulate: 2, examples: 6, ema: 0.5}
  save_every: 2
  log_every: 3
  keep: 100
eval: {batch_size: 4, limit: 4}
"""


CODES_ONLY = ("train.stages=[codes]", "train.prior.steps=0")

INTERRUPTS = """
import os, signal
from cynosure import hookimpl

@hookimpl
def cynosure_training_step(run, batch):
    if (run.stage, run.step) == ("prior", 2) and not hasattr(run, "interrupted"):
        run.interrupted = True
        os.kill(os.getpid(), signal.SIGINT)
"""


class Messages(Progress):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Project:
    """A folder with a recipe, one-file plugins and the runs made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(RECIPE)
        self.registry = folder / "registry.yaml"
        self.registry.write_text("schema: 1\n")

    def plugin(self, name: str, code: str) -> None:
        """Add a one-file plugin; later ones come first."""
        (self.folder / f"{name}.py").write_text(code)
        entries = {p.stem: {"path": p.name} for p in sorted(self.folder.glob("*.py"))}
        self.registry.write_text(json.dumps({"schema": 1, "plugins": entries}))

    def session(self, *sets: str) -> Session:
        host = load_host(self.registry, strict=True)
        return Session.open(load_recipe(self.recipe, sets, host), host)

    def train(
        self,
        output: Path | str,
        *sets: str,
        resume: bool = False,
        progress: Progress | None = None,
        evaluate: Evaluate | None = None,
    ) -> Run:
        """A run in this process."""
        return train(self.session(*sets), self.folder / output, resume, progress, evaluate)

    def command(self, *arguments: str, processes: int = 1, **variables: str) -> subprocess.CompletedProcess[str]:
        """`cynosure` in processes of its own."""
        return self.launch("-m", "cynosure", *arguments, processes=processes, **variables)

    def launch(self, *program: str, processes: int = 1, **variables: str) -> subprocess.CompletedProcess[str]:
        """A Python program in processes of its own."""
        free_port = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), *free_port]
        line = [sys.executable, *(launch if processes > 1 else []), *program]
        return subprocess.run(
            line, cwd=self.folder, env=os.environ | variables, capture_output=True, text=True, timeout=300
        )


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The tensors of a run's final model, or of a checkpoint's."""
    return read_tensors(run / MODEL)[0]


def log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without the times."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(("seconds", "per_second"))} for line in lines]


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors agree bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resumed_from(finished: Path, checkpoint: str, project: Project) -> Path:
    """A copy of a finished run as it was when `checkpoint` had just been written."""
    run = project.folder / "resumed"
    shutil.copytree(finished, run)
    (run / MODEL).unlink()
    for later in [p for p in (run / "checkpoints").iterdir() if p.name > checkpoint]:
        shutil.rmtree(later)
    return run
