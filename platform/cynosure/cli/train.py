"""`cynosure train`: a recipe in, a trained run out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cynosure.cli.app import host_of


def add(app: typer.Typer) -> None:
    app.command("train")(train)


def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="a recipe's name (see 'cynosure recipes list') or file")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the run's folder [default: runs/RECIPE]")
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="override a value: --set train.codes.lr=1e-4")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint of the folder")] = False,
) -> None:
    """Train every stage of a recipe; the result is what 'cynosure predict' and 'cynosure eval' take."""
    from cynosure.process import tune

    tune()
    from cynosure.build import Session
    from cynosure.config.recipe import load_recipe
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.run.evaluate import during_training
    from cynosure.train.loop import train as run_training

    host = host_of(context)
    loaded = load_recipe(recipe, sets or [], host)
    directory = output or Path("runs") / Path(recipe).with_suffix("").as_posix().replace("/", "-").strip("-.")
    progress = use_progress(ConsoleProgress())
    run = run_training(Session.open(loaded, host), directory, resume, progress, during_training)
    if run.main:
        typer.echo(f"trained: {directory}\nnext:    cynosure eval {directory}")
