"""Training logs: one JSON line at a time, always; the trackers of the recipe beside it."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from cynosure.core.records import Batch, StepOutput

if TYPE_CHECKING:
    from cynosure.train.loop import Run

FILE = "log.jsonl"


class Logs:
    """Means over the steps since the last line, by task."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.start = time.monotonic()
        self._sums: dict[str, list[torch.Tensor]] = defaultdict(list)

    def add(self, batches: list[Batch], outputs: list[StepOutput], lr: float, norm: torch.Tensor) -> str:
        """Collect one step; every `log_every` steps write a line. Returns a few words for the progress bar."""
        for batch, output in zip(batches, outputs, strict=True):
            self._sums[f"{batch.task}/loss"].append(output.loss.float())
            for name, value in output.logs.items():
                self._sums[f"{batch.task}/{name}"].append(value.float())
        self._sums["gradient_norm"].append(norm.float())
        run = self.run
        self._last = torch.stack([o.loss.float() for o in outputs]).mean()
        if run.step % run.recipe.train.log_every == 0 or run.step == run.settings.steps:
            means = {name: torch.stack(values).mean().item() for name, values in self._sums.items()}
            self._sums.clear()
            self.write({"lr": lr, "seconds": time.monotonic() - self.start, **means})
        return f"loss {self._last.item():.3f}"

    def write(self, values: Mapping[str, float]) -> None:
        """One line to the JSON log, the trackers and the hooks."""
        run = self.run
        run.host.step_end(run, dict(values))
        run.accelerator.log({f"{run.stage}/{k}": v for k, v in values.items()}, step=run.step)
        if run.main:
            line = {"stage": run.stage, "step": run.step, **{k: round(float(v), 6) for k, v in values.items()}}
            with open(run.directory / FILE, "a") as file:
                file.write(json.dumps(line) + "\n")
