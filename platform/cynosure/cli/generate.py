"""`cynosure generate`: pictures made from sentences, from class labels or from nothing, written as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cynosure.cli.app import host_of
from cynosure.cli.checked import check_device
from cynosure.cli.predict import GRID, file_names, save
from cynosure.cli.sampling import Guidance, Steps, Temperature, TopK, TopP, given_sampling

if TYPE_CHECKING:
    import numpy as np

SHOWN = 240
"""A grid shows no more pictures than this; it is for a look, not for thousands."""


def add(app: typer.Typer) -> None:
    app.command("generate")(generate)


def generate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="a run's folder, or one of its model files")],
    prompts: Annotated[list[str] | None, typer.Argument(help="what the pictures are to show")] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="name or number of a class; may be repeated")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="needed where several tasks would fit")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the pictures")] = Path("generated"),
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="pictures for every prompt or label")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="another seed gives other pictures")] = 0,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    steps: Steps = None,
    grid: Annotated[bool, typer.Option("--grid", help=f"also write {GRID}: all pictures, with their prompts")] = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="pictures at a time; else the recipe's")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; else cuda if there is one")] = None,
) -> None:
    """Make pictures with a run that has learnt to: of what a prompt says, of a class, or of anything."""
    from cynosure.process import tune

    tune()
    check_device(device)
    sampling = given_sampling(temperature, top_k, top_p, guidance, steps)
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.run.generate import requests
    from cynosure.run.grids import contact_sheet, picture_of
    from cynosure.run.loading import load

    predictor = load(run, host=host_of(context), device=device)
    chosen, rows = requests(predictor, task, prompts or [], labels or [])
    words = [chosen.describe(row) for row in rows]
    files = file_names([text.replace("/", " ").rstrip(".") or chosen.name for text in words])
    answers = predictor.predict_iter(rows, chosen.name, samples=samples, seed=seed, batch_size=batch_size, **sampling)
    shown: list[tuple[str, list[np.ndarray]]] = []
    with use_progress(ConsoleProgress()).bar(f"making pictures: {chosen.name}", len(rows) * samples) as bar:
        for answer in answers:
            if answer.error:
                raise answer.error
            for file in save(answer, output / files[answer.index]):
                typer.echo(file)
            if grid and sum(len(pictures) for _, pictures in shown) < SHOWN:
                pictures = [picture_of(predictor, prediction) for prediction in answer.predictions[:SHOWN]]
                shown.append((words[answer.index], pictures))
            bar.advance(samples)
    if shown:
        contact_sheet(shown).save(output / GRID)
        typer.echo(output / GRID)
