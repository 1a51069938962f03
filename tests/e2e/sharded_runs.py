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


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    home = folder / str(rank)
    home.mkdir()
    project = Project(home)
    PartialState.destroy_process_group = lambda self, group=None: None  # type: ignore[method-assign]  # for the next run

    def train(name: str, fsdp: bool, *sets: str, **more: Any) -> None:
        os.environ.update(ACCELERATE_USE_FSDP=str(fsdp).lower(), FSDP_VERSION="2")
        run = project.train(folder / name, *SHORT, *STAGES, *sets, **more)
        torch.save(report(run), folder / f"{name}{rank}.pt")

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
    main(Path(sys.argv[1]))
