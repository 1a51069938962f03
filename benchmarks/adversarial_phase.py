"""What the adversarial phase does to the reconstruction: PSNR of a small VQGAN on scenes, step by step.

    OMP_NUM_THREADS=1 python benchmarks/adversarial_phase.py [--before N] [--steps N] [--only NAME,...]

One tokenizer learns without a discriminator (`--before` steps). Copies of it go on with the same pictures in the same
order; they differ in `model.criteria` alone: none; the adversarial loss as published, whose discriminator is untrained
when it is first listened to; with one that has learnt for a quarter of the steps before (`lead`), that is listened to
more and more (`ramp`), and both. Rows are PSNR in decibels of validation pictures with the oracle's codes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cynosure.build import Session
from cynosure.config.recipe import load_recipe
from cynosure.data.loading import evaluation_batches
from cynosure.host import load_host
from cynosure.train.loop import Run, train

RECIPE = """
schema: 1
image_size: 32
data:
  scenes: {name: scenes, size: 32, train: 2000, validation: 64, test: 1}
tasks:
  generation: {data: scenes, batch_size: 8, l1: 1.0, l2: 0.0}
model:
  tokenizer:
    name: vqgan
    channels: 32
    multipliers: [1, 1, 2]
    blocks: 1
    attention: []
    z_channels: 32
    quantizer: {name: vq, vocab_size: 256, dim: 32, commitment: 0.25}
  base: {name: vqgan, channels: 32, multipliers: [1, 1, 2], blocks: 1, attention: [], z_channels: 32}
train:
  stages: [codes]
  codes: {steps: 1000, lr: 5.0e-4, betas: [0.5, 0.9], weight_decay: 0.0, clip: 0.0, final_lr: 1.0}
  log_every: 1000
  save_every: 100000
"""
DISCRIMINATOR = {"name": "adversarial", "channels": 32, "layers": 2, "lead": 0, "ramp": 0}
POINTS = 6


def criteria(steps: int) -> dict[str, list[Mapping[str, Any]]]:
    """`model.criteria` by the name of the variant."""
    quarter = steps // 4
    return {
        "none": [],
        "published": [DISCRIMINATOR],
        "lead": [{**DISCRIMINATOR, "start": quarter, "lead": quarter}],
        "ramp": [{**DISCRIMINATOR, "ramp": 2 * quarter}],
        "lead_ramp": [{**DISCRIMINATOR, "start": quarter, "lead": quarter, "ramp": 2 * quarter}],
    }


def psnr(run: Run) -> float:
    """Mean over pictures, of oracle codes, in decibels of the range [-1, 1]."""
    model, found = run.model, []
    model.set_stage(None)
    for batch in evaluation_batches(model.tasks["generation"], run.session.rows("generation", "validation"), 64):
        outputs = model.outputs(batch, model.encode(batch)).clamp(-1, 1)
        error = (outputs - batch.targets["rgb"]).square().mean((1, 2, 3))
        found.append(10 * torch.log10(4 / error)[batch.valid])
    return float(torch.cat(found).mean())


def measure(folder: Path, steps: int, *sets: str) -> tuple[list[float], float]:
    """PSNR at `POINTS` points of a training into `folder`, and its seconds."""
    values: list[float] = []

    def evaluate(run: Run) -> Mapping[str, float]:
        values.append(psnr(run))
        return {"generation/psnr": values[-1]}

    recipe, host = folder.with_suffix(".yaml"), load_host()
    recipe.write_text(RECIPE)
    sets = (*sets, f"train.codes.steps={steps}", f"train.eval_every={steps // POINTS}")
    start = time.perf_counter()
    train(Session.open(load_recipe(recipe, sets, host), host), folder, evaluate=evaluate)
    return values, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=int, default=600)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", help="names of variants, with commas between them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    variants = criteria(arguments.steps)
    with tempfile.TemporaryDirectory() as name:
        first = Path(name) / "before"
        show("before", *measure(first, arguments.before))
        for variant in arguments.only.split(",") if arguments.only else variants:
            sets = f"model.criteria={json.dumps(variants[variant])}", f"init={{from: {first}}}", "seed=1"
            show(variant, *measure(Path(name) / variant, arguments.steps, *sets))


def show(name: str, values: list[float], seconds: float) -> None:
    course = " ".join(f"{value:5.2f}" for value in values)
    print(f"{name:<10} last {values[-1]:.2f}  worst {min(values):.2f}  {seconds:4.0f} s  {course}", flush=True)


if __name__ == "__main__":
    main()
