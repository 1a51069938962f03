"""Warns early of a task that starves among others: hardly seen, not learning while the others do, or without codes.

What counts as starving was set on the logs of ordinary runs, in which none of this may be said; see the constants.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cynosure import hookimpl

TINY_SHARE = 0.02
"""A task with a smaller share of the examples, which does not even see each of its rows once, is hardly seen."""
BLOCKS, SHORTEST, LONGEST = 10, 8, 100
"""Losses are compared as means of blocks of log lines: a tenth of the stage, within these numbers of lines."""
FEWEST = 5
"""A task that fewer lines of a block speak of is not judged before more blocks together have so many."""
EARLIEST = 0.2
"""Share of a stage after which a task should have learnt something."""
STUCK, OTHERS = 0.05, 0.3
"""A task does not learn if its loss fell, since the first block, by less than the first share, and the losses of the
others by more than the second."""
RISE, SIGMAS = 0.15, 5.0
"""A loss rises if it does from block to block, by this share and by this many standard errors in two blocks."""
COLLAPSED = 0.05
"""Codes have collapsed if there are fewer different ones than this share of how many there could be."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a task, in one sentence whose beginning tells task and cause."""

    task: str
    cause: str
    detail: str

    @property
    def beginning(self) -> str:
        return f"task {self.task} {self.cause}:"

    @property
    def text(self) -> str:
        return f"{self.beginning} {self.detail}"


@dataclass(frozen=True)
class Supply:
    """What a task gets in a stage: examples in all, its share of them, its rows (None: streamed), codes a batch."""

    examples: float
    share: float
    rows: int | None
    codes: int = 0


@dataclass
class Level:
    """Mean of a loss over one block of log lines, the standard error of that mean, and the step the block ends with."""

    mean: float
    error: float
    end: int

    @classmethod
    def of(cls, values: list[float], end: int) -> Level:
        return cls(statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)), end)


@dataclass
class Watch:
    """One stage, line by line. `vocab_size` is 0 where no codes are learnt; `learnt`: tasks need not begin to learn."""

    stage: str
    steps: int
    log_every: int
    warmup: int
    supplies: Mapping[str, Supply]
    vocab_size: int = 0
    learnt: bool = False
    _lines: list[Mapping[str, float]] = field(default_factory=list)
    _waiting: dict[str, list[float]] = field(default_factory=dict)
    _levels: dict[str, list[Level]] = field(default_factory=dict)

    @property
    def block(self) -> int:
        """Log lines in a block."""
        return min(max(self.steps // self.log_every // BLOCKS, SHORTEST), LONGEST)

    @property
    def _weight(self) -> str:
        """The key that weighs a task in this stage."""
        return "prior_weight" if self.stage == "prior" else "loss_weight"

    def hardly_seen(self) -> Iterator[Finding]:
        """Known before the first step."""
        for task, supply in self.supplies.items():
            if supply.share >= TINY_SHARE or (supply.rows and supply.examples >= supply.rows):
                continue
            rows = f" of its {supply.rows} rows" if supply.rows else ""
            detail = (
                f"{supply.share:.1%} of the examples of stage {self.stage}, {supply.examples:.0f}{rows} in all; "
                f"raise tasks.{task}.weight, or set mixing.by to temperature."
            )
            yield Finding(task, "will hardly be seen", detail)

    def add(self, step: int, logs: Mapping[str, float]) -> Iterator[Finding]:
        """What a new line of the log shows: one of training, or one of an evaluation."""
        if "lr" not in logs:
            yield from self._one_answer_for_all(logs)
            return
        self._lines.append(logs)
        if len(self._lines) < self.block:
            return
        for task in self.supplies:
            losses = self._waiting.pop(task, []) + self._column(f"{task}/loss")
            if len(losses) >= FEWEST:
                self._levels.setdefault(task, []).append(Level.of(losses, step))
            else:
                self._waiting[task] = losses
        if step >= EARLIEST * self.steps and step > self.warmup:
            yield from self._judge()
        self._lines.clear()

    def _column(self, name: str) -> list[float]:
        return [line[name] for line in self._lines if name in line]

    def _judge(self) -> Iterator[Finding]:
        for task in self._levels:
            others = [other for other in self._levels if other != task]
            if others and not self.learnt:
                yield from self._stuck(task, others)
            if others:
                yield from self._rising(task, others)
            yield from self._collapsed(task)

    def _stuck(self, task: str, others: list[str]) -> Iterator[Finding]:
        if len(self._levels[task]) < 3:
            return
        fallen = statistics.median(self._fallen(other, 1) for other in others)
        if self._fallen(task, 2) < STUCK and fallen > OTHERS:
            first, last = self._levels[task][0].mean, self._levels[task][-1].mean
            detail = (
                f"in stage {self.stage} its loss went from {first:.3g} to {last:.3g} while the others' fell by "
                f"{fallen:.0%}; raise tasks.{task}.{self._weight}, or look at its data."
            )
            yield Finding(task, "does not learn", detail)

    def _fallen(self, task: str, blocks: int) -> float:
        """By what share a loss has fallen since the first block, at the best of the last `blocks`."""
        first, best = self._levels[task][0].mean, min(level.mean for level in self._levels[task][-blocks:])
        return (first - best) / abs(first) if first else 0.0

    def _rising(self, task: str, others: list[str]) -> Iterator[Finding]:
        levels = self._levels[task][-3:]
        if len(levels) < 3 or not levels[0].mean < levels[1].mean < levels[2].mean:
            return
        rise = levels[2].mean - levels[0].mean
        certain = SIGMAS * math.hypot(levels[0].error, levels[2].error)
        seen = [other for o in others if len(other := self._levels[o]) >= 3]
        changes = [other[-1].mean - other[-3].mean for other in seen]
        if rise > max(RISE * abs(levels[0].mean), certain) and changes and statistics.median(changes) < 0:
            since = self._levels[task][-4].end if len(self._levels[task]) > 3 else 0
            detail = (
                f"its loss rose from {levels[0].mean:.3g} to {levels[2].mean:.3g} since step {since} of stage "
                f"{self.stage} while the others' fell; raise tasks.{task}.weight or {self._weight}."
            )
            yield Finding(task, "gets worse", detail)

    def _collapsed(self, task: str) -> Iterator[Finding]:
        used, codes = self._column(f"{task}/codes_used"), self.supplies[task].codes
        if not (self.vocab_size and used and codes):
            return
        different, possible = statistics.fmean(used) * self.vocab_size, min(codes, self.vocab_size)
        if different < COLLAPSED * possible:
            yield _same_codes(task, f"of {codes} in a batch only {different:.1f} are different")

    def _one_answer_for_all(self, logs: Mapping[str, float]) -> Iterator[Finding]:
        for task in self.supplies:
            different = logs.get(f"eval/{task}/oracle/codes/distinct", 1.0)
            if self.vocab_size and different < COLLAPSED:
                yield _same_codes(task, f"only {different:.1%} of the evaluated pictures have codes of their own")


def _same_codes(task: str, shown: str) -> Finding:
    detail = f"{shown}; give the quantizer warmup_steps, or the task more weight."
    return Finding(task, "has the same codes for everything", detail)


@dataclass
class _Watcher:
    """The stage of a run that is watched, and what was said in this stage and before."""

    watch: Watch
    said: list[str]

    def tell(self, run: Any, findings: Iterator[Finding]) -> None:
        for finding in findings:
            if not any(text.startswith(finding.beginning) for text in self.said):
                run.warn(finding.text)
                self.said.append(finding.text)


_WATCHERS: dict[int, _Watcher] = {}
"""By the id of the run, while it trains."""


@hookimpl
def cynosure_stage_start(run: Any, data: Any, mixture: Any) -> None:
    """Watches a stage, one that goes on from its beginning: the log tells what happened, and what was said of it."""
    from cynosure.train.logs import FILE, read

    lines = read(run.directory / FILE)
    watcher = _Watcher(watch_of(run, data, mixture), [line["warning"] for line in lines if "warning" in line])
    watcher.tell(run, watcher.watch.hardly_seen())
    for line in lines:
        if line.get("stage") == run.stage and "warning" not in line:
            watcher.tell(run, watcher.watch.add(line["step"], line))
    _WATCHERS[id(run)] = watcher


@hookimpl
def cynosure_step_end(run: Any, logs: Mapping[str, float]) -> None:
    if watcher := _WATCHERS.get(id(run)):
        watcher.tell(run, watcher.watch.add(run.step, logs))


@hookimpl
def cynosure_train_end(run: Any) -> None:
    _WATCHERS.pop(id(run), None)


def watch_of(run: Any, data: Mapping[str, Any], mixture: Any) -> Watch:
    """A watch over the run's present stage."""
    settings, tokenizer = run.settings, run.model.tokenizer
    micro_batches = settings.steps * run.accumulate * run.accelerator.num_processes
    examples = {task: micro_batches * share * data[task].batch_size for task, share in mixture.shares.items()}
    length = tokenizer.spec.length * tokenizer.spec.depth if tokenizer else 0
    supplies = {
        task: Supply(
            examples=count,
            share=count / sum(examples.values()),
            rows=None if data[task].streams else len(data[task]),
            codes=length * data[task].batch_size,
        )
        for task, count in examples.items()
    }
    return Watch(
        stage=run.stage,
        steps=settings.steps,
        log_every=run.recipe.train.log_every,
        warmup=settings.warmup,
        supplies=supplies,
        vocab_size=tokenizer.spec.vocab_size if tokenizer and run.stage == "codes" else 0,
        learnt=bool(run.taken),
    )
