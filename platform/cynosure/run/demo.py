"""The demo: from nothing to a trained unified model, measured and drawn, in the minutes one gives it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from PIL.Image import Image

from cynosure.build import Session
from cynosure.config.recipe import load_recipe
from cynosure.data.loading import evaluation_batches
from cynosure.data.pictures import sample_photographs
from cynosure.errors import CynosureError
from cynosure.host import Host
from cynosure.progress import Progress
from cynosure.run.evaluate import evaluate
from cynosure.run.grids import beside, evaluation_grid, grid, inputs_of, photograph_grid
from cynosure.run.loading import load
from cynosure.run.plan import plan
from cynosure.run.predictor import Predictor
from cynosure.run.report import Report
from cynosure.run.seeds import row_seeds
from cynosure.train.checkpoint import write_text
from cynosure.train.loop import train
from cynosure.train.saving import RECIPE as RECIPE_FILE
from cynosure.train.saving import has_progress

RECIPE = "unified/tiny"
SCENES_PER_MINUTE = 1280
EVALUATED = 512
ROWS_SHOWN = 6
DRAWING_SECONDS = 12.0
MARGIN = 0.78
"""Share of the time that is planned: a shared machine was seen to slow down by a third after the measurement."""
METRICS, PICTURES, MARK = "metrics.json", "pictures", "demo.txt"
"""What a demo leaves in its folder; the mark tells it from a run of the user's own, which is never touched."""


def demo(host: Host, directory: Path, minutes: float, progress: Progress, seed: int = 0) -> tuple[Report, list[Path]]:
    """Train, evaluate and draw; everything is written to `directory`. Returns the report and the files to look at.

    An interrupted demo goes on where it stopped; after a finished one the next begins anew. A folder that holds
    anything else is refused.
    """
    start = time.monotonic()
    _make_room(directory)
    if not (directory / MARK).is_file():
        write_text(directory / MARK, "written by cynosure demo, which may clear this folder\n")
    if has_progress(directory):
        progress.say(f"going on with the interrupted demo in {directory}, with the steps that were planned then.")
        session = Session.open(load_recipe(directory / RECIPE_FILE, host=host), host)
    else:
        sets = [f"seed={seed}", f"data.scenes.train={scenes_for(minutes)}"]
        session = Session.open(load_recipe(RECIPE, sets, host), host)
        for split in ("train", "validation", "test"):
            session.rows("panoptic", split)
        progress.say("measuring how fast this machine is ...")
        left = minutes * 60 * MARGIN - (time.monotonic() - start) - DRAWING_SECONDS
        planned = plan(session, left, EVALUATED)
        progress.say("steps that fit: " + " · ".join(f"{stage} {n}" for stage, n in planned.steps.items()) + ".")
        session = Session.open(load_recipe(RECIPE, [*sets, *planned.sets()], host), host)
    train(session, directory, resume=has_progress(directory), progress=progress)
    return report(session, directory, progress)


def _make_room(directory: Path) -> None:
    """Remove a finished demo; refuse a folder with anything that no demo has written."""
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if not (directory / MARK).is_file():
        raise CynosureError(
            f"{directory} holds files, and no {MARK} that says a demo of this version wrote them: give another folder "
            "with --output."
        )
    if (directory / METRICS).is_file():
        for name in (METRICS, RECIPE_FILE, "model.safetensors", "log.jsonl"):
            (directory / name).unlink(missing_ok=True)
        for name in (PICTURES, "checkpoints", "cache"):
            shutil.rmtree(directory / name, ignore_errors=True)


def scenes_for(minutes: float) -> int:
    """About as many scenes as the steps that fit will look at; more time is better spent on new ones."""
    return round(min(max(SCENES_PER_MINUTE * minutes, 1024), 65536))


def report(session: Session, directory: Path, progress: Progress) -> tuple[Report, list[Path]]:
    """Evaluate the finished model on held-out scenes and draw its answers, for scenes and for real photographs."""
    predictor = load(directory, host=session.host)
    found = evaluate(predictor, session, split="test", limit=EVALUATED, batch_size=64, progress=progress)
    folder = directory / PICTURES
    folder.mkdir(exist_ok=True)
    pictures = {"overview": lambda: overview(predictor, session)}
    for name in predictor.tasks:
        pictures[name] = lambda name=name: evaluation_grid(  # type: ignore[misc]
            predictor, name, session.rows(name, "test"), ROWS_SHOWN
        )
    pictures["photographs"] = lambda: photograph_grid(predictor, sample_photographs(), list(predictor.tasks))
    with progress.bar("drawing", len(pictures)) as bar:
        for name, draw in pictures.items():
            draw().save(folder / f"{name}.png")
            bar.advance()
    # Written last and whole: a folder with this file holds a finished demo.
    write_text(directory / METRICS, found.to_json())
    return found, [directory / METRICS, *(folder / f"{name}.png" for name in pictures)]


def overview(predictor: Predictor, session: Session) -> Image:
    """Held-out scenes, what the model makes of them with codes from the prior, and the truth, task by task."""
    headers, columns = [], []
    for name, task in predictor.tasks.items():
        transforms = session.host.transforms(task, "test")
        rows = session.rows(name, "test")
        batches = evaluation_batches(task, rows, ROWS_SHOWN, ROWS_SHOWN, transforms=transforms)
        batch = next(batches).to(predictor.device)
        answers = predictor.model.predict(batch, predictor.settings(), row_seeds(0, batch.keys))
        headers += [f"{name}\ninput", "prediction\ncodes from the prior", "truth\nthe true answer"]
        truths = task.truth(batch)
        columns += [inputs_of(batch), beside(predictor, answers, truths), beside(predictor, truths, truths)]
    return grid(list(zip(*columns, strict=True)), headers, cell=128)
