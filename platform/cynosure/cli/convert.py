"""`cynosure convert`: a published checkpoint in, a folder to predict with out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cynosure.cli.app import host_of

if TYPE_CHECKING:
    from cynosure.core.records import Imported
    from cynosure.host import Host


MADE = {
    "label": "generate {} --label 0",
    "caption": 'generate {} "a red bus"',
    "depth": "predict {} DEPTH...",
    "segmentation": "predict {} CLASSES...",
}
"""How pictures are made with a model, by what they are made from."""


def add(app: typer.Typer) -> None:
    app.command("convert")(convert)


def convert(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="the system that the files come from, e.g. uvim")],
    files: Annotated[list[Path], typer.Argument(help="its checkpoint files: all parts of a model, or some")],
    directory: Annotated[Path, typer.Argument(help="folder for the result; parts that are there are completed")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="a value of the recipe: --set data.coco.root=PATH")
    ] = None,
) -> None:
    """Make a published checkpoint of another system a model of Cynosure."""
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.run.convert import convert as run_conversion

    progress = use_progress(ConsoleProgress())
    imported = run_conversion(source, files, directory, host_of(context), sets or [], progress)
    for note in imported.notes:
        typer.echo(note)
    typer.echo(f"converted: {directory} ({', '.join(imported.parts)})")
    if "base" in imported.parts:
        typer.echo(f"next:      {_use(imported, directory, host_of(context))}")
    else:
        typer.echo(
            f"next:      convert the other parts into {directory} as well, or train with --set init.from={directory}"
        )


def _use(imported: Imported, directory: Path, host: Host) -> str:
    """A command that shows what the model can do."""
    prior = "prior" in imported.parts
    for key, options in imported.recipe["tasks"].items():
        inputs = host.components.get("task", options.get("name", key)).inputs
        if "image" not in inputs:
            made = MADE.get(inputs[0] if inputs else options.get("condition"), "generate {}")
            return f"cynosure {(made if prior else 'predict {} PICTURE... --codes oracle').format(directory)}"
    return f"cynosure predict {directory} PICTURE..." + ("" if prior else " --codes none")
