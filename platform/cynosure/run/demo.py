"""The demo: from nothing to a trained unified model, measured and drawn, in the minutes one gives it."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from cynosure.build import Session, build_model, complete
from cynosure.config.recipe import load_recipe
from cynosure.core.guided import GuidedModel, Stage
from cynosure.core.records import SampleSettings
from cynosure.data.loading import TaskData, evaluation_batches
from cynosure.data.pictures import sample_photographs
from cynosure.errors import CynosureError
from cynosure.host import Host
from cynosure.progress import Progress
from cynosure.run.evaluate import evaluate
from cynosure.run.grids import evaluation_grid, grid, inputs_of, photograph_grid
from cynosure.run.loading import load
from cynosure.run.predictor import Predictor
from cynosure.run.report import Report
from cynosure.run.seeds import row_seeds
from cynosure.train.loop import train
from cynosure.train.saving import has_progress

RECIPE = "unified/tiny"
SCENES_PER_MINUTE = 1280
TIMED_STEPS = 8
EVALUATED = 512
ROWS_SHOWN = 6
PICTURE_SECONDS = 20.0
"""Time that the pictures take; measured on two cores."""
MARGIN = 0.93
"""Share of the time that is planned; the rest is for what a measurement of eight steps cannot know."""
METRICS, PICTURES = "metrics.json", "pictures"


def demo(
    host: Host,
    directory: Path,
    minutes: float,
    progress: Progress,
    seed: int = 0,
) -> tuple[Report, list[Path]]:
    """Train, evaluate and draw; everything is written to `directory`. Returns the report and the files to look at.

    An interrupted demo goes on where it stopped; a finished one is done anew.
    """
    if minutes < 1:
        raise CynosureError("the demo needs at least one minute: give --minutes 1 or more.")
    start = time.monotonic()
    if (directory / METRICS).is_file():
        shutil.rmtree(directory)
    if has_progress(directory):
        progress.say(f"going on with the interrupted demo in {directory}, with the steps that were planned then.")
        session = Session.open(load_recipe(directory / "recipe.yaml", [], host), host)
    else:
        sets = [f"seed={seed}", f"data.scenes.train={scenes_for(minutes)}"]
        session = Session.open(load_recipe(RECIPE, sets, host), host)
        prepare_data(session)
        left = minutes * 60 * MARGIN - (time.monotonic() - start)
        session = plan(session, sets, left, progress)
    train(session, directory, resume=has_progress(directory), progress=progress)
    return report(session, host, directory, progress)


def prepare_data(session: Session) -> None:
    for name in ("train", "validation", "test"):
        for dataset in session.datasets.values():
            dataset.rows(name)


def scenes_for(minutes: float) -> int:
    """About as many scenes as the steps that fit will look at; more time is better spent on new ones."""
    return round(min(max(SCENES_PER_MINUTE * minutes, 1024), 65536))


def plan(session: Session, sets: list[str], seconds: float, progress: Progress) -> Session:
    """The session with as many steps a stage as fit into `seconds`, in the proportions of the recipe.

    Measured on this machine: a few steps of every stage, the speed of the oracle and of the prior.
    """
    progress.say("measuring how fast this machine is ...")
    speed = Speed(session)
    settings = session.recipe.train
    tasks = len(session.recipe.tasks)
    rows = min(len(session.rows(task, "train")) for task in session.recipe.tasks)
    views = settings.prior.views
    fixed = PICTURE_SECONDS + tasks * EVALUATED * speed.evaluation
    per_unit = sum(getattr(settings, stage).steps * speed.steps[stage] for stage in settings.stages)
    per_unit += tasks * settings.refit.examples * views * speed.sampling
    cache = tasks * rows * speed.encoding
    scale = (seconds - fixed - cache * views) / per_unit
    if scale < 0.5 and views > 1:  # little time: one view of every row is more than stage `prior` will see
        views = 1
        scale = (seconds - fixed - cache) / per_unit
    scale = max(scale, 0.02)
    steps = {stage: max(1, round(getattr(settings, stage).steps * scale)) for stage in settings.stages}
    progress.say("steps that fit: " + " · ".join(f"{stage} {count}" for stage, count in steps.items()) + ".")
    sets = [*sets, *(f"train.{stage}.steps={count}" for stage, count in steps.items()), f"train.prior.views={views}"]
    sets += [f"train.refit.examples={max(64, min(rows, round(settings.refit.examples * scale)))}"]
    recipe = load_recipe(RECIPE, sets, session.host)
    return Session(complete(recipe, session.datasets, session.host), session.host, session.datasets)


class Speed:
    """Seconds of each piece of the demo's work, measured once: per optimizer step, and per example."""

    def __init__(self, session: Session) -> None:
        self.session = session
        torch.manual_seed(0)
        self.model = build_model(session.recipe, session.host)
        self.data = {
            key: TaskData(self.model.tasks[key], session.rows(key, "train"), task.batch_size, 0)
            for key, task in session.recipe.tasks.items()
        }
        self.steps = {stage: self._stage(stage) for stage in session.recipe.train.stages}
        self.model.set_stage(None)
        batch = self._batch(64)
        settings, seeds = SampleSettings(temperature=0.7), batch.keys
        self.encoding = self._timed(lambda: self.model.encode(batch)) / 64
        self.sampling = self._timed(lambda: self.model.codes(batch, "prior", settings, seeds)) / 64
        answer = self._timed(lambda: self.model.predict(batch, settings, seeds)) / 64
        self.evaluation = 4 * answer + 2 * self.encoding

    def _batch(self, size: int) -> Any:
        data = copy.copy(next(iter(self.data.values())))
        data.batch_size = size
        return data.batch(0, 0, 1)

    def _stage(self, stage: Stage) -> float:
        self.model.set_stage(stage)
        optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4)
        accumulate = getattr(self.session.recipe.train, stage).accumulate
        batches = [list(self.data.values())[i % len(self.data)].batch(i, 0, 1) for i in range(accumulate)]
        if stage != "codes":
            batches = [_with_codes(self.model, batch) for batch in batches]

        def step() -> None:
            for batch in batches:
                self.model(batch, stage).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return self._timed(step)

    def _timed(self, work: Callable[[], Any]) -> float:
        """The median of a few runs, after one that is not counted."""
        work()
        seconds = []
        for _ in range(TIMED_STEPS):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))


def _with_codes(model: GuidedModel, batch: Any) -> Any:
    from dataclasses import replace

    assert model.tokenizer is not None
    spec = model.tokenizer.spec
    return replace(batch, codes=torch.zeros(len(batch), spec.length, spec.depth, dtype=torch.long))


def overview(predictor: Predictor, session: Session) -> Image:
    """Held-out scenes, what the model makes of them with codes from the prior, and the truth, task by task."""
    headers, columns = [], []
    for name, task in predictor.tasks.items():
        batch = next(evaluation_batches(task, session.rows(name, "test"), ROWS_SHOWN, ROWS_SHOWN))
        answers = predictor.model.predict(batch, predictor.settings(), row_seeds(0, batch.keys))
        headers += [f"{name}\ninput", "prediction\ncodes from the prior", "truth\nthe true answer"]
        columns += [inputs_of(batch), [p.image() for p in answers], [p.image() for p in task.truth(batch)]]
    return grid(list(zip(*columns, strict=True)), headers, cell=128)


def report(session: Session, host: Host, directory: Path, progress: Progress) -> tuple[Report, list[Path]]:
    """Evaluate the finished model on held-out scenes and draw its answers, for scenes and for real photographs."""
    predictor = load(directory, host=host)
    found = evaluate(predictor, session, split="test", limit=EVALUATED, batch_size=64, progress=progress)
    (directory / METRICS).write_text(found.to_json())
    folder = directory / PICTURES
    folder.mkdir(exist_ok=True)
    files = []
    with progress.bar("drawing", len(predictor.tasks) + 2) as bar:
        files.append(folder / "overview.png")
        overview(predictor, session).save(files[-1])
        bar.advance()
        for name in predictor.tasks:
            files.append(folder / f"{name}.png")
            evaluation_grid(predictor.model, name, session.rows(name, "test"), ROWS_SHOWN).save(files[-1])
            bar.advance()
        files.append(folder / "photographs.png")
        photograph_grid(predictor, sample_photographs(), list(predictor.tasks)).save(files[-1])
        bar.advance()
    return found, [directory / METRICS, *files]
