"""`cynosure train`: a recipe in, a trained run out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cynosure.cli.app import host_of

if TYPE_CHECKING:
    from cynosure.config.recipe import Recipe
    from cynosure.host import Host


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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the model, the schedule and their costs; train nothing")
    ] = False,
) -> None:
    """Train every stage of a recipe; the result is what 'cynosure predict' and 'cynosure eval' take."""
    from cynosure.process import tune

    tune()
    from cynosure.config.recipe import load_recipe
    from cynosure.progress import ConsoleProgress, use_progress

    host = host_of(context)
    loaded = load_recipe(recipe, sets or [], host)
    directory = output or Path("runs") / Path(recipe).with_suffix("").as_posix().replace("/", "-").strip("-.")
    progress = use_progress(ConsoleProgress())
    if dry_run:
        _show_plan(recipe, loaded, host, directory, resume)
        return
    from cynosure.build import Session
    from cynosure.run.evaluate import during_training
    from cynosure.train.loop import train as run_training

    run = run_training(Session.open(loaded, host), directory, resume, progress, during_training)
    if run.main:
        typer.echo(f"trained: {directory}\nnext:    cynosure eval {directory}")


def _show_plan(title: str, recipe: Recipe, host: Host, directory: Path, resume: bool) -> None:
    from cynosure.cli.planned import text
    from cynosure.run.dryrun import dry_run

    processes, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    planned = dry_run(recipe, host, directory, resume, processes)
    if rank == 0:
        typer.echo(text(planned, title))
