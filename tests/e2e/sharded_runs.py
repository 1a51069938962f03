"""What each of two processes does for test_scale: the same short run as DDP and as FSDP, and what FSDP must survive."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from tiny_runs import Project, resumed_from

from cynosure.run.evaluate import during_training
from cynosure.train import sharding
from cynosure.train.loop import Run

SHORT = ("train.codes.steps=3", "train.prior.steps=3", "train.refit.steps=2", "train.log_every=1", "train.save_every=1")
"""AdamW, Muon and Adafactor each have a stage."""
STAGES = ("train.refit.optimizer=adafactor",)
GRADIENT = ("train.stages=[codes]", "train.prior.steps=0", "model.tokenizer.quantizer={name: vq, update: gradient}")
UNEVEN = ("train.eval_every=2", "eval.limit=3", "eval.batch_size=1")
"""The first process evaluates two batches, the second one."""
VQGAN = "{name: vqgan, channels: 32, multipliers: [1, 1], blocks: 1, attention: [], z_channels: 4}"
PRIOR = "dim: 16, depth: 1, heads: 2, mlp_dim: 32"
QLAE = "convolutions: 1, dense: [8]"
PICTURES = ("tasks.depth=null", "tasks.colorization=null", "tasks.generation={data: scenes, batch_size: 2}")
PARTS = {
    "next_scale": (
        f"model.base={VQGAN}",
        f"model.tokenizer={VQGAN}",
        "model.tokenizer.quantizer={name: multiscale, vocab_size: 8, dim: 4, scales: [1, 2, 8]}",
        "model.criteria=[{name: adversarial, channels: 4, layers: 2, adaptive: false, ramp: 0}]",
        f"model.prior={{name: next_scale, {PRIOR}}}",
        "train.stages=[codes, prior]",
    ),
    "soft_codes": (
        f"model.base={VQGAN}",
        f"model.tokenizer={VQGAN}",
        "model.tokenizer.quantizer={name: rq, vocab_size: 8, dim: 4, depth: 2, min_count: 0}",
        f"model.prior={{name: rq_transformer, {PRIOR}, head_depth: 1, soft_temperature: 0.5}}",
        "train.stages=[codes, prior]",
        "train.prior.views=0",
    ),
    "curvature": (
        f"model.base={{name: qlae, widths: [8, 4], {QLAE}, curvature: 0.1}}",
        f"model.tokenizer={{name: qlae, widths: [4, 8], {QLAE}}}",
        "model.tokenizer.quantizer={name: latent, sizes: [4, 4], codebook: tanh}",
        "model.prior=null",
        "train.stages=[codes]",
        "train.prior.steps=0",
    ),
}
"""What calls more of the sharded parts than `forward`, and criteria before a stage in which they rest."""
BRIEF = ("train.codes.steps=2", "train.prior.steps=2", "train.prior.accumulate=1", "train.save_every=100")
SLOW = ("train.codes.lr=1e-6", "train.prior.lr=1e-6")
"""What a norm takes back has a gradient that is all rounding, which optimizers scale up to the size of the rate."""


def main(folder: Path, what: str) -> None:
    rank = int(os.environ["RANK"])
    home = folder / str(rank)
    home.mkdir()
    project = Project(home)
    PartialState.destroy_process_group = lambda self, group=None: None  # type: ignore[method-assign]  # for the next run

    def train(name: str, fsdp: bool, *sets: str, **more: Any) -> None:
        os.environ.update(ACCELERATE_USE_FSDP=str(fsdp).lower(), FSDP_VERSION="2")
        run = project.train(folder / name, *SHORT, *STAGES, *sets, **more)
        torch.save(report(run), folder / f"{name}{rank}.pt")

    if what == "parts":
        for part, sets in PARTS.items():
            for kind, fsdp in (("ddp", False), ("fsdp", True)):
                train(f"{part}_{kind}", fsdp, *PICTURES, *BRIEF, *SLOW, *sets)
        return
    train("ddp", False)
    train("fsdp", True, *UNEVEN, evaluate=during_training)
    torch.distributed.barrier()
    if rank == 0:
        resumed_from(folder / "fsdp", "1-prior-00000002", project).rename(folder / "resumed")
    torch.distributed.barrier()
    train("resumed", True, *UNEVEN, "train.checkpointing=true", resume=True, evaluate=during_training)
    for name, fsdp in (("gradient_ddp", False), ("gradient_fsdp", True)):
        train(name, fsdp, *GRADIENT)


def report(run: Run) -> dict[str, Any]:
    parameters = list(run.model.parameters())
    held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in parameters)
    assert run.model.tokenizer is not None
    with sharding.gathered(run.model):
        whole = {k: v.detach().clone() for k, v in run.model.named_parameters()}
    return {
        "share": held / sum(p.numel() for p in parameters),
        "codebook": run.model.tokenizer.quantizer.state_dict(),
        "buffers": dict(run.model.named_buffers()),
        "gathered": whole,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
