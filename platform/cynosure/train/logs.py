"""Training logs: one JSON line at a time, always; the trackers of the recipe beside it."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from cynosure.core.records import Batch, StepOutput
from cynosure.errors import TrainingError
from cynosure.train.checkpoint import write_text

if TYPE_CHECKING:
    from cynosure.train.loop import Run

FILE = "log.jsonl"
NOTE_DECAY = 0.9
NOTE_METRICS = 2
COLUMNS = ("prior", "oracle", "none")
"""Whose codes an evaluation in training is summed up by: the first of these that it has."""


class Logs:
    """Means over the steps since the last line, by task."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._start = self._last = time.monotonic()
        self._examples = 0
        self._values: dict[str, list[torch.Tensor]] = defaultdict(list)

    def add(self, batches: Sequence[Batch], outputs: Sequence[StepOutput], lr: float, norm: torch.Tensor) -> None:
        """Collect one step; every `log_every` steps, and at the end of a stage, write a line."""
        for batch, output in zip(batches, outputs, strict=True):
            self._examples += len(batch)
            for name, value in {"loss": output.loss, **output.logs}.items():
                self._values[f"{batch.task}/{name}"].append(torch.as_tensor(value))
        self._values["gradient_norm"].append(norm)
        run = self.run
        if run.step % run.recipe.train.log_every == 0 or run.step == run.settings.steps:
            self.write({"lr": lr, **self._speed(), **self._means()})

    def _means(self) -> dict[str, float]:
        """Empties what was collected."""
        means = {name: fmean(values) for name, values in self._over_processes().items()}
        self._values.clear()
        return means

    def _over_processes(self) -> dict[str, list[float]]:
        """What was collected, the mean of all processes; one transfer from the device for all values."""
        accelerator = self.run.accelerator
        found = [v.to(accelerator.device, torch.float32) for values in self._values.values() for v in values]
        told = iter(accelerator.reduce(torch.stack(found), "mean").tolist() if found else ())
        return {name: [next(told) for _ in values] for name, values in self._values.items()}

    def _speed(self) -> dict[str, float]:
        now, examples = time.monotonic(), self._examples * self.run.accelerator.num_processes
        rate = examples / max(now - self._last, 1e-9)
        self._last, self._examples = now, 0
        return {"seconds": now - self._start, "examples_per_second": rate}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep so that the next line of a resumed run is the one it would have been."""
        return {"seconds": time.monotonic() - self._start, "values": self._over_processes()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self._start -= state["seconds"]
        for name, values in state["values"].items():
            self._values[name] = [torch.tensor(v, device=self.run.accelerator.device) for v in values]

    def write(self, values: Mapping[str, float]) -> None:
        """One line to the JSON log and the trackers, then to the hooks."""
        run = self.run
        run.accelerator.log({f"{run.stage}/{k}": v for k, v in values.items()}, step=run.total_step)
        _append(run, {k: float(f"{v:.7g}") for k, v in values.items()})
        run.host.step_end(run, dict(values))


class LossNote:
    """The losses beside the progress bar, one a task, smoothed over about ten micro-batches."""

    def __init__(self) -> None:
        self._smooth: dict[str, float] = {}

    def add(self, losses: Mapping[str, float]) -> str:
        for task, loss in losses.items():
            self._smooth[task] = loss + NOTE_DECAY * (self._smooth.get(task, loss) - loss)
        return " · ".join(f"{task} {loss:.3f}" for task, loss in self._smooth.items())


def evaluation_note(found: Mapping[str, float]) -> str:
    """The first metrics of every task of an evaluation in training, by names such as eval/depth/oracle/rmse."""
    metrics: dict[str, dict[str, list[str]]] = {}
    for name, value in found.items():
        _, *path = name.split("/")
        if len(path) == 3 and path[1] in COLUMNS:
            metrics.setdefault(path[0], {}).setdefault(path[1], []).append(f"{path[2]} {value:.3f}")
    told = []
    for task, columns in metrics.items():
        column = next(c for c in COLUMNS if c in columns)
        told.append(f"{task} {', '.join(columns[column][:NOTE_METRICS])} (codes: {column})")
    return " · ".join(told)


def write_warning(run: Run, text: str) -> None:
    """A line of the JSON log that holds a sentence."""
    _append(run, {"warning": text})


def _append(run: Run, values: Mapping[str, Any]) -> None:
    if not run.main:
        return
    path = run.directory / FILE
    try:
        with open(path, "a") as file:
            file.write(json.dumps({"stage": run.stage, "step": run.step, **values}) + "\n")
    except OSError as error:
        raise TrainingError(f"could not write {path} ({error}): free some space, then --resume.") from error


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without one that a kill has cut short."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return lines


def rewind(path: Path, stages: Sequence[str], stage: str, step: int) -> None:
    """Drop the lines that were written after `step` of `stage`: a run that goes on from there writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            told = json.loads(line)
            if (stages.index(told["stage"]), told["step"]) <= (stages.index(stage), step):
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # cut short by the kill
    write_text(path, "".join(kept))
