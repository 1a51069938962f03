"""`cynosure eval`: how good a trained run is, beside its ceiling and the trivial answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cynosure.cli.app import host_of
from cynosure.cli.checked import check_device, check_output, write_text


def add(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="a run's folder, or one of its model files")],
    tasks: Annotated[list[str] | None, typer.Option("--task", "-t", help="only this task; may be repeated")] = None,
    split: Annotated[str, typer.Option("--split", help="rows of the run's data to measure on")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first rows of the split")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write everything to this file")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="rows at a time; else the recipe's")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0, help="0 is the likeliest code; else the recipe's"),
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="draw from the k likeliest codes")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", min=0, max=1, help="draw from this probability mass")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="of sampled and of random codes")] = 0,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; else cuda if there is one")] = None,
) -> None:
    """Measure a run with codes from the oracle, the prior, at random and without, beside a trivial baseline."""
    from cynosure.process import tune

    tune()
    check_device(device)
    if json_file:
        check_output(json_file)
    from rich.console import Console

    from cynosure.build import Session
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.run.evaluate import evaluate as run_evaluation
    from cynosure.run.loading import load

    predictor = load(run, host=host_of(context), device=device)
    report = run_evaluation(
        predictor,
        Session.open(predictor.recipe, predictor.host),
        tasks,
        split,
        limit,
        batch_size or predictor.recipe.eval.batch_size,
        predictor.settings(temperature=temperature, top_k=top_k, top_p=top_p),
        seed=seed,
        progress=use_progress(ConsoleProgress()),
    )
    Console().print(report.table())
    if json_file:
        write_text(json_file, report.to_json() + "\n")
