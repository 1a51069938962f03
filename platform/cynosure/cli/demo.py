"""`cynosure demo`: the main job from end to end on the embedded scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cynosure.cli.app import host_of


def add(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    context: typer.Context,
    minutes: Annotated[
        float, typer.Option("--minutes", min=1, help="time for everything; more gives better numbers")
    ] = 10,
    output: Annotated[Path, typer.Option("--output", "-o", help="the run's folder")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Train one model for panoptic segmentation, depth and colorization, measure it and draw what it sees."""
    from cynosure.process import tune

    tune()
    from rich.console import Console

    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.run.demo import demo as run_demo

    report, files = run_demo(host_of(context), output, minutes, use_progress(ConsoleProgress()), seed)
    console = Console()
    console.print(report.table())
    console.print("Look at:")
    for file in files:
        console.print(f"  {file}")
    console.print(f"\nNext: cynosure predict {output} --task panoptic YOUR_PHOTO.jpg --grid")
