"""How codes are used: how much of the codebook by what they come from, and how the prior's compare with the oracle's.

Shapes: B batch, L code length, D depth, K vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch

from cynosure.core.metrics import gathered
from cynosure.core.records import Codes, CodeSpec
from cynosure.core.usage import codebook_report, perplexity, used

T = TypeVar("T")


def codebook_use(statistics: Sequence[CodeStatistics], device: torch.device) -> dict[str, dict[str, float]]:
    """How the tasks together use the codebook that they share, by source of the codes."""
    found: dict[str, dict[str, float]] = {}
    for source in {source: None for each in statistics for source in each.counts}:
        for i, segment in enumerate(statistics[0].spec.segments):
            counts = torch.stack([each.counts[source][i] for each in statistics if source in each.counts]).sum(0)
            counts = torch.tensor(total(counts.tolist(), device, statistics[0].world))
            if counts.sum() == 0:
                continue
            suffix = f"/{segment.name}" if len(statistics[0].spec.segments) > 1 else ""
            found.setdefault(source, {}).update({f"{k}{suffix}": v for k, v in codebook_report(counts).items()})
    return found


class CodeStatistics:
    """How the codebook is used by the oracle and, where it is among `others`, by the prior, and how the two compare.

    Sources are known from the start: a rank that gets no row must take part in every sum over ranks.
    """

    def __init__(self, spec: CodeSpec, world: int, others: Iterable[str] = ("prior",)) -> None:
        self.spec, self.world = spec, world
        self.counts = {
            source: [torch.zeros(s.vocab_size, dtype=torch.long) for s in spec.segments]
            for source in ("oracle", *others)
        }
        self.seen: dict[str, set[bytes]] = {source: set() for source in self.counts}
        self.rows = self.nats = self.same = 0.0

    def add(self, oracle: Codes, prior: Codes | None, nats: float) -> None:
        """One batch: what the oracle wrote, what the prior drew, the cost of the oracle's codes in nats per code."""
        rows = len(oracle.ids)
        self._count("oracle", oracle.ids.cpu())
        if prior is not None:
            self._count("prior", prior.ids.cpu())
            self.same += float((prior.ids == oracle.ids).float().mean()) * rows
            self.nats += nats * rows
        self.rows += rows

    def _count(self, source: str, ids: torch.Tensor) -> None:
        start = 0
        for segment, counts in zip(self.spec.segments, self.counts[source], strict=True):
            part = ids[:, start : start + segment.length, : segment.depth]
            counts += torch.bincount(part.flatten(), minlength=segment.vocab_size)
            start += segment.length
        self.seen[source].update(row.numpy().tobytes() for row in ids)

    def report(self, device: torch.device) -> dict[str, dict[str, float]]:
        rows, nats, same = total([self.rows, self.nats, self.same], device, self.world)
        if rows == 0:
            return {}
        found = {source: self._usage(source, rows, device) for source in self.counts}
        if "prior" in found:
            found["prior"] |= {"agreement": same / rows, "nats per code": nats / rows}
        return found

    def _usage(self, source: str, rows: float, device: torch.device) -> dict[str, float]:
        values: dict[str, float] = {}
        for segment, seen in zip(self.spec.segments, self.counts[source], strict=True):
            counts = torch.tensor(total(seen.tolist(), device, self.world))
            suffix = f"/{segment.name}" if len(self.spec.segments) > 1 else ""
            values |= {f"used{suffix}": used(counts), f"perplexity{suffix}": perplexity(counts)}
        return {**values, "distinct": len(union(self.seen[source], self.world)) / rows}


def total(values: Sequence[float], device: torch.device, world: int) -> list[float]:
    """Sums over all processes."""
    if world == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return tensor.tolist()


def union(values: set[T], world: int) -> set[T]:
    """What any process has."""
    return values if world == 1 else set().union(*gathered(values))
