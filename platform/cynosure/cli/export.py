"""`cynosure export`: a model as a file that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cynosure.cli.app import host_of
from cynosure.cli.checked import check_output


def add(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="a run's folder, or one of its model files")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the file to write, such as model.onnx or model.pt2")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="needed where the model has several")] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="torch, onnx or a plugin's; else what the file's ending says")
    ] = None,
    style: Annotated[
        str | None,
        typer.Option("--style", metavar="CODE", help="of a model with codes, the one to write: 3, or 3,0,1,2"),
    ] = None,
) -> None:
    """Write a model, or one style of it, as one program, from a picture of any size to its answer."""
    from cynosure.process import tune

    tune()
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.run.export import export as run_export
    from cynosure.run.loading import load

    check_output(output)
    use_progress(ConsoleProgress())
    model = load(run, host=host_of(context), device="cpu")
    typer.echo(run_export(model, output, task, format, style))
