"""One model for three tasks against three models for one task each, after equally many steps on the embedded scenes.

OMP_WAIT_POLICY=passive python benchmarks/unified.py

In every step every model sees as many examples of a task as the unified one does, the codebooks remember equally many
vectors, and all else is unified/tiny, or another --recipe. Four runs take about 45 minutes of one core. Stopped,
it goes on where it was; runs that have been measured are not trained again. Writes unified.md and unified.json beside
the runs.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cynosure.process import tune

RECIPE = "unified/tiny"
STAGES = ("codes", "prior", "refit")
HIGHER = ("pq", "pq_things", "pq_stuff", "d1", "psnr", "ssim")
LOWER = ("rmse", "abs_rel", "chroma_error", "delta_e2000", "angular_error")
"""The metrics of the table, those that should be high and those that should be low."""
COLUMNS = {"prior": "what a user gets", "oracle": "the ceiling, codes written from the answer", "none": "no codes"}
DEPTH_ALONE = 1
"""Blocks in the oracle of a model for one task."""
GOAL = 0.95
"""Within five per cent of the models that know one task."""


def settings(recipe: Any, scale: float, seed: int) -> list[str]:
    """What all runs change of the recipe."""
    steps = {stage: max(1, round(getattr(recipe.train, stage).steps * scale)) for stage in STAGES}
    return [f"seed={seed}", *(f"train.{stage}.steps={count}" for stage, count in steps.items())]


def alone(recipe: Any, task: str) -> list[str]:
    """What a model of one task changes besides: a step is one micro-batch, whose vectors the codebook remembers for
    as much longer as they are fewer, there is nothing to weigh the task against, and its oracle is that of the recipes
    for one task."""
    share = recipe.tasks[task].batch_size / sum(use.batch_size for use in recipe.tasks.values())
    decay = 1 - share * (1 - recipe.model.tokenizer["quantizer"]["decay"])
    others = [f"tasks.{other}=null" for other in recipe.tasks if other != task]
    stages = [f"train.{stage}.accumulate=1" for stage in STAGES]
    model = [f"model.tokenizer.depth={DEPTH_ALONE}", f"model.tokenizer.quantizer.decay={decay:.4f}"]
    weights = [f"tasks.{task}.{weight}=1" for weight in ("loss_weight", "prior_weight")]
    return [*others, *stages, *weights, *model]


def measured(recipe: str, name: str, sets: list[str], folder: Path, host: Any, progress: Any) -> dict[str, Any]:
    """Metrics and number of parameters of one run on the test split, trained if it has not been.

    Raises CynosureError when the folder has a run with other settings.
    """
    from cynosure.build import Session
    from cynosure.config.recipe import differences, load_recipe
    from cynosure.errors import CynosureError
    from cynosure.run.evaluate import evaluate
    from cynosure.run.loading import load
    from cynosure.train.checkpoint import write_text
    from cynosure.train.loop import train
    from cynosure.train.saving import RECIPE as RECIPE_FILE
    from cynosure.train.saving import has_progress

    directory, results = folder / name, folder / name / "metrics.json"
    session = Session.open(load_recipe(recipe, sets, host), host)
    if results.is_file() and (changed := differences((directory / RECIPE_FILE).read_text(), session.recipe)):
        raise CynosureError(f"{directory} was measured with other {', '.join(changed)}: give another --output.")
    if not results.is_file():
        progress.say(f"--- {name}")
        train(session, directory, resume=has_progress(directory), progress=progress)
        predictor = load(directory, host=host)
        size = session.recipe.eval.batch_size
        report = evaluate(predictor, session, split="test", batch_size=size, progress=progress)
        parameters = sum(p.numel() for p in predictor.model.parameters())
        write_text(results, json.dumps({"parameters": parameters, **report.to_dict()}, indent=1))
    found: dict[str, Any] = json.loads(results.read_text())
    return found


def rows(unified: Mapping[str, Any], single: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row a metric: both values by column, and how much of the single model's quality the unified one has."""
    for task, found in single.items():
        both = unified["tasks"][task]["metrics"], found["tasks"][task]["metrics"]
        for metric in both[0]["prior"]:
            if metric in HIGHER + LOWER:
                values = {c: [metrics[c][metric] for metrics in both] for c in (*COLUMNS, "baseline")}
                yield {"task": task, "metric": metric, **values, "kept": kept(metric, *values["prior"])}


def kept(metric: str, unified: float | None, single: float | None) -> float | None:
    """Share of the single model's quality: unified / single where high is good, single / unified where low is.

    None where there is nothing to compare with.
    """
    above, below = (unified, single) if metric in HIGHER else (single, unified)
    return None if above is None or not below else above / below


def table(found: Mapping[str, Any]) -> str:
    """The comparison in Markdown."""
    parameters = found["parameters"]
    lines = [
        f"Seed {found['seed']}, {', '.join(f'{count} {stage}' for stage, count in found['steps'].items())} steps, "
        f"{found['rows']} test scenes.",
        "",
        "Each cell: one model for all tasks / a model for this task alone. "
        + "; ".join(f"`{column}`: {text}" for column, text in COLUMNS.items())
        + ". `kept`: the share of the single model's quality, with codes from the prior.",
        "",
        "| task | metric | " + " | ".join(COLUMNS) + " | baseline | kept |",
        "|---|---|" + "---|" * (len(COLUMNS) + 2),
    ]
    for row in found["metrics"]:
        arrow = "↑" if row["metric"] in HIGHER else "↓"
        cells = [" / ".join(map(number, row[column])) for column in COLUMNS]
        cells += [number(row["baseline"][0]), "–" if row["kept"] is None else f"{row['kept']:.1%}"]
        lines.append(f"| {row['task']} | {row['metric']} {arrow} | {' | '.join(cells)} |")
    missed = [row["metric"] for row in found["metrics"] if (row["kept"] or 0.0) < GOAL]
    total = sum(parameters["single"].values())
    lines += [
        "",
        f"Parameters: {parameters['unified'] / 1e6:.2f} M for all tasks, {total / 1e6:.2f} M for the "
        f"{len(parameters['single'])} models of one task ({parameters['unified'] / total:.0%}).",
        f"Within {1 - GOAL:.0%} of the single models: {'all but ' + ', '.join(missed) if missed else 'all'}.",
    ]
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=RECIPE, help="of the unified model; unified/four has enhancement too")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="factor on the steps of all stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/unified-benchmark"))
    parser.add_argument("--set", action="append", default=[], help="override a value of the recipe in all runs")
    options = parser.parse_args()
    tune()
    from cynosure.config.recipe import load_recipe
    from cynosure.host import load_host
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.train.checkpoint import write_text

    host, progress = load_host(), use_progress(ConsoleProgress())
    recipe = load_recipe(options.recipe, options.set, host)
    shared = [*options.set, *settings(recipe, options.steps_scale, options.seed)]
    folder = options.output / f"{options.recipe.replace('/', '-')}-seed{options.seed}-x{options.steps_scale:g}"
    every = {"unified": [], **{task: alone(recipe, task) for task in recipe.tasks}}
    single = {
        name: measured(options.recipe, name, [*shared, *sets], folder, host, progress) for name, sets in every.items()
    }
    unified = single.pop("unified")
    found = {
        "seed": options.seed,
        "scale": options.steps_scale,
        "steps": {stage: getattr(load_recipe(options.recipe, shared, host).train, stage).steps for stage in STAGES},
        "rows": min(task["rows"] for task in unified["tasks"].values()),
        "parameters": {
            "unified": unified["parameters"],
            "single": {task: each["parameters"] for task, each in single.items()},
        },
        "metrics": list(rows(unified, single)),
    }
    write_text(folder / "unified.json", json.dumps(found, indent=1))
    write_text(folder / "unified.md", table(found))
    print(table(found))


if __name__ == "__main__":
    main()
