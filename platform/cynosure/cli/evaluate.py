"""`cynosure eval`: how good a trained run is, beside its ceiling and the trivial answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cynosure.cli.app import host_of
from cynosure.cli.checked import check_device, check_output, write_text
from cynosure.cli.sampling import Guidance, Steps, Temperature, TopK, TopP, given_sampling
from cynosure.errors import CynosureError


def add(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="a run's folder, or one of its model files")],
    tasks: Annotated[list[str] | None, typer.Option("--task", "-t", help="only this task; may be repeated")] = None,
    split: Annotated[str, typer.Option("--split", help="rows of the run's data to measure on")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first rows of the split")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write everything to this file")] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="a published protocol, see docs/evaluation.md; else the task's own")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="an option of the protocol: --set min_fraction=0.001")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="folder for the answers, in the protocol's format")
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", help="a further metric: --metric 'feature_distance={network: FILE}'; may be repeated"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="rows at a time; else the recipe's")
    ] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    steps: Steps = None,
    seed: Annotated[int, typer.Option("--seed", help="of sampled and of random codes")] = 0,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; else cuda if there is one")] = None,
) -> None:
    """Measure a run with codes from the oracle, the prior, at random and without, beside a trivial baseline."""
    from cynosure.process import tune

    tune()
    check_device(device)
    options, more = protocol_options(protocol, sets or []), metric_options(metrics or [])
    if save and not protocol:
        raise CynosureError("--save writes answers as a protocol does: name one with --protocol")
    if json_file:
        check_output(json_file)
    from rich.console import Console

    from cynosure.build import Session
    from cynosure.progress import ConsoleProgress, Progress, use_progress
    from cynosure.run.evaluate import evaluate as run_evaluation
    from cynosure.run.loading import load

    rank, world, device = join_processes(device)
    predictor = load(run, host=host_of(context), device=device)
    report = run_evaluation(
        predictor,
        Session.open(predictor.recipe, predictor.host),
        tasks,
        split,
        limit,
        batch_size or predictor.recipe.eval.batch_size,
        given_sampling(temperature, top_k, top_p, guidance, steps),
        seed=seed,
        progress=use_progress(Progress() if rank else ConsoleProgress()),
        rank=rank,
        world=world,
        protocol=options,
        save=save,
        metrics=more,
    )
    if rank == 0:
        Console().print(report.table())
        if json_file:
            write_text(json_file, report.to_json() + "\n")
    if world > 1:
        import torch

        torch.distributed.destroy_process_group()


def protocol_options(name: str | None, sets: Sequence[str]) -> dict[str, Any] | None:
    """Name and options of a protocol from `--protocol` and `--set key=value`, whose values are YAML."""
    if name is None:
        if sets:
            raise CynosureError("--set changes options of a protocol: name one with --protocol")
        return None
    options: dict[str, Any] = {"name": name}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CynosureError(f"--set {text} must look like key=value")
        options[key] = _yaml(value, f"--set {key}")
    return options


def metric_options(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Metrics with their options from `--metric NAME` and `--metric 'NAME={key: value}'`."""
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        options = _yaml(value, f"--metric {name}") if equals else {}
        if not name or not isinstance(options, dict):
            raise CynosureError(f"--metric {text} must look like NAME or NAME={{key: value}}")
        found[name] = options
    return found


def _yaml(text: str, where: str) -> Any:
    from cynosure.config.yaml import parse_yaml

    return parse_yaml(text, where).data


def join_processes(device: str | None) -> tuple[int, int, Any]:
    """(rank, number of processes, device) under `python -m torch.distributed.run`; alone (0, 1, `device`)."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1, device
    from accelerate import PartialState

    from cynosure.train.start import several_cpu_processes

    state = PartialState(cpu=several_cpu_processes())
    return state.process_index, state.num_processes, state.device
