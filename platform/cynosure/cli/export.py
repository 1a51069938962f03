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
) -> None:
    """Write a model without codes as one program, from a picture of any size to its answer."""
    from cynosure.process import tune

    tune()
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.run.export import export as run_export
    from cynosure.run.loading import load

    check_output(output)
    use_progress(ConsoleProgress())
    typer.echo(run_export(load(run, host=host_of(context), device="cpu"), output, task, format))
