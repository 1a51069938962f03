"""A dry run as text: the parts, what each stage would do and cost, and what to mind."""

from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING

from cynosure.cli.text import table

if TYPE_CHECKING:
    from cynosure.run.dryrun import DryRun, StagePlan

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def text(planned: DryRun, title: str) -> str:
    """The whole dry run."""
    blocks = [f"{title}: {_code(planned)}\n\n{_parts(planned)}", *(_stage(plan) for plan in planned.stages)]
    if planned.notes:
        blocks.append("\n".join(f"note: {note}" for note in planned.notes))
    return "\n\n".join(blocks)


def _code(planned: DryRun) -> str:
    if planned.spec is None:
        return "a model without codes"
    count = sum(s.length * s.depth for s in planned.spec.segments)
    sizes = {size for s in planned.spec.segments for size in s.limits}
    least, most = min(sizes), max(sizes)
    return f"{count} codes out of {most if least == most else f'{least} to {most}'} ({planned.code_bits:.0f} bits)"


def _parts(planned: DryRun) -> str:
    rows = [("part", "component", "parameters", "other state")]
    rows += [(p.name, p.component, _count(p.parameters), _count(p.buffers)) for p in planned.parts]
    rows.append(("all", "", _count(sum(p.parameters for p in planned.parts)), ""))
    return table([(*row[:2], row[2].rjust(10), row[3].rjust(11)) for row in rows])


def _stage(plan: StagePlan) -> str:
    rows = [
        ("steps", f"{plan.steps:,}, {plan.warmup:,} of them warm-up"),
        ("learning rate", ", ".join(f"{rate:.2g} at {step:,}" for step, rate in plan.rates)),
        ("a step", _step(plan)),
        ("in all", _all(plan)),
        ("memory", _memory(plan)),
        ("activations", _activations(plan)),
    ]
    lines = [f"  {name:<15}{value}" for name, value in rows if value]
    return "\n".join([f"stage {plan.stage} learns {_count(plan.learning)} parameters", *lines])


def _step(plan: StagePlan) -> str:
    """'1,024 examples = 8 processes x 8 micro-batches of 16, 1.55 PFLOP (1.51 TFLOP an example)'."""
    each = list(plan.batch_sizes.values())
    sizes = "/".join(map(str, each if len(set(each)) > 1 else each[:1]))
    processes = f"{plan.processes} processes x " if plan.processes > 1 else ""
    shared = f"{plan.examples:,.0f} examples = {processes}{plan.accumulate} micro-batches of {sizes}"
    if plan.flops is None:
        return shared
    return f"{shared}; {_flops(plan.flops)} ({_flops(plan.flops / plan.examples)} an example)"


def _all(plan: StagePlan) -> str:
    found = [f"{plan.examples * plan.steps:,.0f} examples"]
    if passes := [f"{task} {epochs:.3g}" for task, epochs in plan.epochs.items() if epochs is not None]:
        found.append(f"epochs: {', '.join(passes)}")
    if plan.flops is not None:
        found.append(_flops(plan.flops * plan.steps))
    return "; ".join(found)


def _memory(plan: StagePlan) -> str:
    """What is there at once in a process, largest first."""
    if plan.memory is None:
        return ""
    sizes = sorted(((size, name) for name, size in plan.memory.items() if size), reverse=True)
    return f"{_bytes(sum(plan.memory.values()))} = " + ", ".join(f"{name} {_bytes(size)}" for size, name in sizes)


def _activations(plan: StagePlan) -> str:
    """What recomputing blocks saves."""
    costs = (plan.costs or {}).values()
    kept, less = (max((getattr(c, k) for c in costs), default=0) for k in ("kept", "kept_recomputing"))
    if less == kept:
        return ""
    with_, without = f"{_bytes(less)} with train.checkpointing", f"{_bytes(kept)} without"
    return f"{with_}, {without}"


def _bytes(size: float) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def _count(number: int) -> str:
    if number < 100_000:
        return f"{number:,}" if number else "-"
    return f"{number / 1e6:.1f} M" if number >= 1e7 else f"{number / 1e6:.2f} M"


def _flops(value: float) -> str:
    """1.51 TFLOP for 1.51e12."""
    thousands = max(0, min(int(log10(max(value, 1)) / 3), len(PREFIXES) - 1))
    return f"{value / 1000**thousands:.3g} {PREFIXES[thousands]}FLOP"
