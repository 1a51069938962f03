"""How many training steps fit into a given time: measured on this machine, minutes before they are needed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from cynosure.build import Session, build_model
from cynosure.core.guided import Stage
from cynosure.core.records import Batch, SampleSettings
from cynosure.data.loading import TaskData
from cynosure.progress import Progress
from cynosure.run.evaluate import evaluate
from cynosure.train.loop import Run

TIMED = 16
"""Repetitions of which the median counts."""
EVALUATED = 32
BATCH = 64
FEWEST = 0.01
"""Scale of the shortest plan; where not even that fits, the run takes longer than it was given."""


@dataclass(frozen=True)
class Plan:
    """Steps by stage, and rows whose codes are sampled for stage `refit`."""

    steps: dict[Stage, int]
    examples: int

    def sets(self) -> list[str]:
        """The plan as `--set` values of a recipe."""
        values = {f"train.{stage}.steps": count for stage, count in self.steps.items()}
        values |= {"train.refit.examples": self.examples}
        return [f"{key}={value}" for key, value in values.items()]


def plan(session: Session, seconds: float, evaluated: int) -> Plan:
    """As many steps as fit into `seconds` beside the code cache and an evaluation of `evaluated` rows a task.

    The stages keep the proportions that they have in the recipe.
    """
    settings, speed = session.recipe.train, Speed(session)
    tasks = len(session.recipe.tasks)
    rows = sum(len(session.rows(task, "train")) for task in session.recipe.tasks)
    views = settings.prior.views
    left = seconds - tasks * evaluated * speed.evaluation
    steps = {stage: getattr(settings, stage).steps for stage in settings.stages}
    unit = sum(steps[stage] * speed.steps[stage] for stage in steps)
    unit += tasks * settings.refit.examples * speed.sampling * views
    encoded, most = steps["prior"] * speed.examples * speed.encoding, rows * views * speed.encoding
    scale = max(FEWEST, left / (unit + encoded), (left - most) / unit)  # the oracle's codes cost the lesser of both
    counts = {stage: max(1, round(count * scale)) for stage, count in steps.items()}
    return Plan(counts, max(BATCH, min(rows // tasks, round(settings.refit.examples * scale))))


class Speed:
    """Seconds of each piece of work: of an optimizer step by stage, and for one row each of the rest; `examples` are
    those of a step of stage `prior`."""

    def __init__(self, session: Session) -> None:
        torch.manual_seed(0)
        accelerator = Accelerator(mixed_precision=session.recipe.train.precision)
        model = build_model(session.recipe, session.host).to(accelerator.device)
        with tempfile.TemporaryDirectory() as folder:
            self.run = Run(session, model, Path(folder), accelerator, Progress())
        self.data = [
            TaskData(
                model.tasks[key],
                session.rows(key, "train"),
                task.batch_size,
                seed=0,
                transforms=session.host.transforms(model.tasks[key], "train"),
            )
            for key, task in session.recipe.tasks.items()
        ]
        self.steps = {stage: self._stage(stage) for stage in session.recipe.train.stages}
        self.run.stage = "prior"
        self.examples = self.run.accumulate * float(np.mean([data.batch_size for data in self.data]))
        model.set_stage(None)
        batch = replace(self.data[0], batch_size=BATCH).batch(0, 0, 1).to(accelerator.device)
        sampling = SampleSettings(temperature=1.0)
        self.encoding = self._median(lambda: model.encode(batch)) / BATCH
        self.sampling = self._median(lambda: model.codes(batch, "prior", sampling, batch.keys)) / BATCH
        start = time.perf_counter()
        evaluate(model, session, limit=EVALUATED, baseline=False)
        self.evaluation = (time.perf_counter() - start) / (EVALUATED * len(self.data))

    def _stage(self, stage: Stage) -> float:
        run = self.run
        run.stage = stage
        run.model.set_stage(stage)
        optimizer = run.host.build_optimizer(run)
        numbers = iter(range(1_000_000))

        def step() -> None:
            for _ in range(run.accumulate):
                number = next(numbers)
                batch = self.data[number % len(self.data)].batch(number, 0, 1).to(run.accelerator.device)
                run.model(batch if stage == "codes" else self._with_codes(batch), stage).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            run.model.end_step()

        return self._median(step)

    def _with_codes(self, batch: Batch) -> Batch:
        tokenizer = self.run.model.tokenizer
        if tokenizer is None:
            return batch
        shape = len(batch), tokenizer.spec.length, tokenizer.spec.depth
        return replace(batch, codes=torch.zeros(shape, dtype=torch.long, device=batch.keys.device))

    def _median(self, work: Callable[[], Any]) -> float:
        """Seconds of `work`, after two runs that do not count."""
        seconds = []
        for _ in range(TIMED + 2):
            start = time.perf_counter()
            work()
            if self.run.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[2:]))
