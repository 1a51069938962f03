"""What a training step costs as the model and the number of processes grow: seconds, memory, bytes sent.

OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/scaling.py
python benchmarks/scaling.py --recipe panoptic/paper --devices 1 8 32

Trains stage codes and stage prior of a UViM of 64-pixel pictures for a few steps, at several widths, in one process and
in two that talk over gloo, as DDP and as FSDP, with and without recomputation (`train.checkpointing`). Prints Markdown
tables; about five minutes on two free cores. Every process trains 4 examples a step, so two share twice the work;
seconds are those that one process computes, whatever else the machine does.

With a recipe it measures nothing: it says what its stages would hold and send on so many devices, from a dry run.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTHS = (256, 512)
WAYS = {
    "1 process": (1, False, False),
    "1 process, recomputing": (1, False, True),
    "2 processes, DDP": (2, False, False),
    "2 processes, FSDP": (2, True, False),
    "2 processes, FSDP, recomputing": (2, True, True),
}
WARM, TIMED = 2, 5
MEASURED = WARM + TIMED
"""The step after the timed ones, whose activations and messages are counted."""
COLUMNS = {
    "seconds": "CPU seconds",
    "state": "weights, gradients, optimizer, buffers",
    "activations": "activations",
    "peak": "peak of the process",
    "reduced": "gradients reduced",
    "gathered": "weights gathered",
    "codebook": "codebook reduced",
}
SHOWN = 0.01
"""Of less, such as the few bytes of the losses, a table says nothing."""
SHARDED = ("weights", "gradients", "optimizer")
RECIPE = """
schema: 1
image_size: 64
data: {scenes: {name: scenes, size: 64, train: 64, validation: 4, test: 4}}
tasks: {depth: {data: scenes, batch_size: 4, encoding: log, min_depth: 1.0, max_depth: 16.0}}
model:
  tokenizer:
    {name: vit_oracle, patch: 8, dim: WIDTH, depth: 2, heads: 4, mlp_dim: HIDDEN, code_grid: [4, 4],
     quantizer: {name: vq, vocab_size: 1024, dim: WIDTH}}
  base: {name: vit, patch: 8, dim: WIDTH, depth: 4, heads: 4, mlp_dim: HIDDEN}
  prior:
    {name: autoregressive, dim: WIDTH, depth: 4, heads: 4, mlp_dim: HIDDEN,
     encoder: {name: vit, patch: 8, dim: WIDTH, depth: 4, heads: 4, mlp_dim: HIDDEN}}
train:
  stages: [codes, prior]
  codes: {steps: STEPS, lr: 1e-3}
  prior: {steps: STEPS, lr: 1e-3, warm_start: false}
  checkpointing: RECOMPUTING
  save_every: 1000000
"""


class Meter:
    """Watches the steps of a run."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = defaultdict(dict)

    def install(self) -> None:
        from cynosure.core.shards import is_sharded
        from cynosure.train.loop import Run, _Loop

        step, forward = _Loop._step, Run.forward

        def watched(loop: Any, batches: Any) -> Any:
            found, number = self.found[loop.run.stage], loop.run.step
            if number == WARM:
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            if number < MEASURED:
                start = time.process_time()
                result = step(loop, batches)
                found.setdefault("seconds", []).append(time.process_time() - start)
            else:
                found["peak"] = peak_bytes()
                with messages(loop.run.wrapped) as found["messages"]:
                    result = step(loop, batches)
                found["state"] = state_bytes(loop)
            return result

        def kept(run: Any, batch: Any) -> Any:
            if run.step != MEASURED or any(map(is_sharded, run.model.parameters())):
                return forward(run, batch)
            with kept_bytes(run.model) as count:
                output = forward(run, batch)
            self.found[run.stage]["activations"] = count()
            return output

        setattr(_Loop, "_step", watched)  # noqa: B010
        setattr(Run, "forward", kept)  # noqa: B010


@contextmanager
def messages(model: Any) -> Iterator[Counter[str]]:
    """Bytes of the tensors that this process reduces and gathers; a ring sends 2 (n-1)/n and (n-1)/n of them."""
    import torch
    from torch import distributed
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    count: Counter[str] = Counter()
    names = {"all_reduce": "tensor", "all_gather_single": "output_tensor", "reduce_scatter_single": "input"}
    kinds = {"all_gather_single": "gathered", "reduce_scatter_single": "reduced"}
    before = {name: getattr(distributed, name) for name in names}

    def counting(name: str) -> Callable[..., Any]:
        signature = inspect.signature(before[name])

        def call(*arguments: Any, **options: Any) -> Any:
            given = signature.bind(*arguments, **options).arguments
            kind = kinds.get(name, "reduced" if given.get("async_op") else "codebook")  # DDP does not wait for it
            count[kind] += given[names[name]].nbytes
            return before[name](*arguments, **options)

        return call

    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model.register_comm_hook(None, allreduce_hook)  # what DDP does anyway, where it can be seen
    for name in names:
        setattr(distributed, name, counting(name))
    try:
        yield count
    finally:
        for name, function in before.items():
            setattr(distributed, name, function)


@contextmanager
def kept_bytes(model: Any) -> Iterator[Callable[[], int]]:
    """Bytes that autograd keeps for the backward pass, each memory once, without parameters and buffers."""
    import torch

    found: dict[int, int] = {}
    alive = []  # else another tensor might be given the same memory

    def pack(tensor: Any) -> Any:
        alive.append(tensor)
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def total() -> int:
        own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        return sum(size for memory, size in found.items() if memory not in own)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def state_bytes(loop: Any) -> int:
    """What this process holds of weights, gradients, optimizer state and buffers between two steps' work."""
    from cynosure.core.shards import local

    model, optimizer = loop.run.model, loop.optimizer.optimizer
    states = [v for values in optimizer.state.values() for v in values.values()]
    tensors = [*model.parameters(), *loop.parameters, *states, *model.buffers()]
    return sum(local(t).nbytes for t in tensors)


def peak_bytes() -> int:
    """The largest resident memory since the peak started anew."""
    line = next(v for v in Path("/proc/self/status").read_text().splitlines() if v.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def train_here(output: Path) -> None:
    """One process of a measurement; the first one writes what it found."""
    from cynosure.build import Session
    from cynosure.config.recipe import load_recipe
    from cynosure.host import load_host
    from cynosure.train.loop import train

    host = load_host()
    meter = Meter()
    meter.install()
    run = train(Session.open(load_recipe(output.with_suffix(".yaml"), (), host), host), output.with_suffix(""))
    if run.main:
        output.write_text(json.dumps(meter.found))


def measured(width: int, way: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What `train_here` finds in processes of its own."""
    processes, sharded, recomputing = WAYS[way]
    output = folder / f"{width}-{list(WAYS).index(way)}.json"
    values = {"WIDTH": width, "HIDDEN": 4 * width, "STEPS": MEASURED + 1, "RECOMPUTING": str(recomputing).lower()}
    text = RECIPE
    for name, value in values.items():
        text = text.replace(name, str(value))
    output.with_suffix(".yaml").write_text(text)
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    launch += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    line = [sys.executable, *(launch if processes > 1 else []), __file__, "--worker", str(output)]
    # Large tensors get memory of their own, so that what is freed leaves the process.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1048576"}
    environment |= {"ACCELERATE_USE_FSDP": str(sharded).lower(), "FSDP_VERSION": "2"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, dict[str, Any]] = json.loads(output.read_text())
    return found


def row(found: dict[str, Any]) -> dict[str, float]:
    """The numbers of a table's row: seconds of the fastest step, since others only slow one down; MiB of all else."""
    sizes = {name: found[name] for name in ("state", "activations", "peak") if name in found} | found["messages"]
    return {"seconds": min(found["seconds"][WARM:]), **{k: v / 2**20 for k, v in sizes.items()}}


def table(rows: dict[tuple[int, str], dict[str, float]]) -> str:
    lines = [f"| width | | {' | '.join(COLUMNS.values())} |", "|---|---|" + "---:|" * len(COLUMNS)]
    for (width, way), values in rows.items():
        cells = [f"{values[name]:.3g}" if values.get(name, 0) >= SHOWN else "" for name in COLUMNS]
        lines.append(f"| {width} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def planned(name: str, devices: list[int]) -> Iterator[str]:
    """Rows of a table of what a recipe's stages would hold and send; see docs/scaling.md for the formulas."""
    from cynosure.config.recipe import load_recipe
    from cynosure.host import load_host
    from cynosure.run.dryrun import dry_run

    host = load_host()
    yield "| stage | devices | micro-batches | state, DDP | state, FSDP | sent, DDP | sent, FSDP | sent, codebook |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for n in devices:
        for plan in dry_run(load_recipe(name, (), host), host, Path("runs/none"), processes=n).stages:
            memory = plan.memory or {}
            state, ring = sum(memory.get(kind, 0) for kind in SHARDED), (n - 1) / n
            codebook = memory.get("codebook", 0)
            sizes = [
                state + codebook,
                state / n + codebook,
                2 * ring * 4 * plan.learning,
                3 * ring * 4 * plan.learning * plan.accumulate,
                2 * ring * codebook if plan.stage == "codes" else 0,
            ]
            cells = [f"{size / 2**30:.3g}" for size in sizes]
            yield f"| {plan.stage} | {n} | {plan.accumulate} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="widths of the model")
    parser.add_argument("--recipe", help="plan this recipe instead")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 32], help="how many, for --recipe")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        train_here(options.worker)
        return
    if options.recipe:
        print("GiB a device, and a step\n", *planned(options.recipe, options.devices), sep="\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {(w, way): measured(w, way, Path(folder)) for w in options.widths for way in WAYS}
    for stage in ("codes", "prior"):
        print(f"\nStage {stage}; memory and messages in MiB a process and step\n")
        print(table({key: row(stages[stage]) for key, stages in found.items()}))


if __name__ == "__main__":
    main()
