"""Every quantizer with every prior on depth of the embedded scenes: quality, speed, and what does not fit together.
Then, at the size of depth/tiny, priors that write many codes at once against those that write one after another.

OMP_NUM_THREADS=1 python benchmarks/matrix.py
OMP_NUM_THREADS=1 python benchmarks/matrix.py autoregressive gpt

What plugins register joins by itself, with the options that its TESTING gives. Stopped, it goes on where it was; what
has been measured is not measured again. Writes docs/matrix.md when all is measured, in half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cynosure.process import tune

if TYPE_CHECKING:
    from cynosure.build import Session
    from cynosure.host import Host
    from cynosure.progress import Progress
    from cynosure.run.predictor import Predictor

RECIPE = "depth/tiny"
TEST_ROWS, BATCHES = 256, (1, 32)
ROUNDS = (1, 2, 4, 8)
SIZE = {"dim": 64, "depth": 2, "heads": 4, "mlp_dim": 256}
ENCODER = {"name": "hybrid", **SIZE}
LEARNING = {"decay": 0.98, "min_count": 5.0}
QUANTIZERS: Mapping[str, Mapping[str, Any]] = {
    "vq": {"vocab_size": 256, "dim": 16, "split_noise": 0.02, "warmup_steps": 50, "commitment": 0.25, **LEARNING},
    "gumbel": {"vocab_size": 256, "dim": 16, "final_temperature": 0.5, "anneal_steps": 150},
    "rq": {"vocab_size": 16, "dim": 16, "depth": 2, **LEARNING},
    "fsq": {"levels": [8, 6, 5]},
    "lfq": {"bits": 8},
    "bsq": {"bits": 8},
    "multiscale": {
        "vocab_size": 256,
        "dim": 16,
        "scales": [1, 2, 4],
        "update": "ema",
        "replace": "restart",
        **LEARNING,
    },
    "latent": {"sizes": [4, 4, 4, 4]},
}
"""Eight bits a vector: 256 codes, or two of 16, 240 levels, eight signs, four numbers of 4; `multiscale` has 21 vectors
where the others have 16."""
PRIORS: Mapping[str, Mapping[str, Any]] = {
    "autoregressive": SIZE,
    "gpt": SIZE,
    "rq_transformer": {**SIZE, "head_depth": 1, "embedding": "separate"},
    "next_scale": SIZE,
    "masked": {**SIZE, "dropout": 0.0},
}
SMALL: dict[str, Any] = {
    "image_size": 32,
    "data.scenes.size": 32,
    "data.scenes.train": 2048,
    "tasks.depth.batch_size": 16,
    "model.tokenizer.dim": 64,
    "model.tokenizer.mlp_dim": 256,
    "model.base": {"name": "hybrid", **SIZE},
}
"""What the matrix changes of the recipe."""
TINY = {"dim": 128, "depth": 3, "heads": 4, "mlp_dim": 512}
GUIDED: Mapping[str, Mapping[str, Any]] = {
    "autoregressive": TINY,
    "gpt": TINY,
    "masked": {**TINY, "dropout": 0.0},
}
"""The priors of the second comparison, whose tokenizer and base are the recipe's own."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Lab:
    """Trains and measures, everything once: a run's folder is named after what its recipe says."""

    host: Host
    folder: Path
    progress: Progress
    seed: int

    def codes(self, name: str, values: Values) -> Path:
        """A run whose stage codes is done."""
        return self._trained(name, self._session({**values, "train.stages": ["codes"], "model.prior": None}))

    def prior(self, name: str, source: Path, values: Values) -> Path:
        """A run with the codes of `source` whose stage prior is done."""
        stage = {"train.stages": ["prior"], "init.from": str(source), "train.prior.views": 0}
        return self._trained(name, self._session({**values, **stage}))

    def refusal(self, values: Values) -> str:
        """Why the parts of a model do not fit together, or ''."""
        from cynosure.build import build_model
        from cynosure.errors import CynosureError

        try:
            build_model(self._session(values).recipe, self.host)
        except CynosureError as error:
            return str(error).removeprefix("model: ").replace("\n", " ")
        return ""

    def measured(self, run: Path, rounds: int | None = None) -> dict[str, Any]:
        """Metrics by source of the codes, and by batch size the milliseconds of CPU that an answer takes."""
        from cynosure.run.evaluate import evaluate
        from cynosure.run.loading import load
        from cynosure.train.checkpoint import write_text

        file = run / ("metrics.json" if rounds is None else f"metrics-{rounds}.json")
        if not file.is_file():
            predictor = load(run, host=self.host)
            session = self._session_of(predictor)
            settings = {} if rounds is None else {"steps": rounds}
            sources = ("oracle", "prior", "none")
            options: dict[str, Any] = {"limit": TEST_ROWS, "sources": sources, "baseline": False}
            report = evaluate(predictor, session, settings=settings, progress=self.progress, **options)
            (task,) = report.tasks.values()
            speed = {size: milliseconds(predictor, session, size, settings) for size in BATCHES}
            found = {"metrics": task.metrics, "codes": task.codes, "milliseconds": speed}
            write_text(file, json.dumps(found, indent=1))
        known: dict[str, Any] = json.loads(file.read_text())
        return known

    def _session(self, values: Values) -> Session:
        from cynosure.build import Session
        from cynosure.config.recipe import load_recipe

        sets = [f"{key}={json.dumps(value)}" for key, value in {**values, "seed": self.seed}.items()]
        return Session.open(load_recipe(RECIPE, sets, self.host), self.host)

    def _session_of(self, predictor: Predictor) -> Session:
        from cynosure.build import Session

        return Session.open(predictor.recipe, self.host)

    def _trained(self, name: str, session: Session) -> Path:
        from cynosure.train.checkpoint import MODEL
        from cynosure.train.loop import train
        from cynosure.train.saving import has_progress

        folder = self.folder / f"{name}-{session.recipe.digest()}"
        if not (folder / MODEL).is_file():
            self.progress.say(f"--- {name}")
            train(session, folder, resume=has_progress(folder), progress=self.progress)
        return folder


def milliseconds(predictor: Predictor, session: Session, size: int, settings: Mapping[str, Any]) -> float:
    """CPU time of an answer among `size`, from the picture to the depth of each pixel; the best of a few."""
    import torch

    from cynosure.data.loading import evaluation_batches
    from cynosure.run.sampling import sample_settings

    task = predictor.task()
    batch = next(iter(evaluation_batches(task, session.rows(task.name, "test"), size, size)))
    sampling = sample_settings(predictor.recipe, settings)
    times = []
    for _ in range(5):
        start = time.process_time()
        predictor.model.predict(batch, sampling, torch.arange(size))
        times.append(1000 * (time.process_time() - start) / size)
    return min(times)


def options_of(host: Host, kind: str, name: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A part as a recipe has it; one that is not among the `known` brings its own options."""
    from cynosure.testing.checks import small_options

    return {**(known[name] if name in known else small_options(host, kind, name)), "name": name}


def matrix(lab: Lab, priors: Sequence[str], steps: int) -> Iterator[tuple[str, str, dict[str, Any] | str]]:
    """(quantizer, prior, what was measured, or the sentence that says why they do not fit)."""
    for quantizer in lab.host.components.names("quantizer"):
        part = options_of(lab.host, "quantizer", quantizer, QUANTIZERS)
        values = {**SMALL, **steps_of(steps), "model.tokenizer.quantizer": part}
        for prior in priors:
            pair = {**values, "model.prior": {"encoder": ENCODER, **options_of(lab.host, "prior", prior, PRIORS)}}
            if reason := lab.refusal(pair):
                yield quantizer, prior, reason
            else:
                yield (
                    quantizer,
                    prior,
                    lab.measured(lab.prior(f"{quantizer}-{prior}", lab.codes(quantizer, values), pair)),
                )


def steps_of(count: int) -> dict[str, int]:
    return {f"train.{stage}.steps": count for stage in ("codes", "prior")}


def guided(lab: Lab, priors: Sequence[str], steps: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(prior and its rounds, what was measured) on the codes of UViM."""
    source = lab.codes("guided", steps_of(steps))
    for prior in (name for name in priors if name in GUIDED):
        part = {"encoder": {"name": "hybrid", **TINY}, **options_of(lab.host, "prior", prior, GUIDED)}
        run = lab.prior(f"guided-{prior}", source, {**steps_of(steps), "model.prior": part})
        if lab.host.components.get("prior", prior).takes_steps:
            yield from ((f"{prior}, T = {rounds}", lab.measured(run, rounds)) for rounds in ROUNDS)
        else:
            yield prior, lab.measured(run)


def quality(values: Mapping[str, float]) -> str:
    return f"{values['rmse']:.3f} ({values['d1']:.3f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; all columns but the first to the right."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:]])


def matrix_page(cells: Mapping[tuple[str, str], dict[str, Any] | str]) -> str:
    """Quality, speed, and what does not fit."""
    quantizers, priors = (list(dict.fromkeys(pair[i] for pair in cells)) for i in (0, 1))
    best, speed = [], []
    for quantizer in quantizers:
        row = [cells[quantizer, prior] for prior in priors]
        trained = [cell for cell in row if not isinstance(cell, str)]
        ends = [quality(trained[0]["metrics"][source]) for source in ("oracle", "none")] if trained else ["–", "–"]
        best.append([quantizer, *("–" if isinstance(c, str) else quality(c["metrics"]["prior"]) for c in row), *ends])
        speed.append([quantizer, *("–" if isinstance(c, str) else f"{c['milliseconds']['32']:.2f}" for c in row)])
    refused = {pair: cell for pair, cell in cells.items() if isinstance(cell, str)}
    reasons = [
        f"* {', '.join(q for (q, p), said in refused.items() if (p, said) == why)} with {why[0]}: {why[1]}"
        for why in dict.fromkeys((prior, said) for (_, prior), said in refused.items())
    ]
    parts = [table(["quantizer", *priors, "oracle", "no codes"], best)]
    parts += ["Milliseconds of CPU an answer, 32 at a time:", table(["quantizer", *priors], speed)]
    parts += ["–: they do not fit, and say so before anything is trained:", "\n".join(reasons)] if refused else []
    return "\n\n".join(parts)


def guided_page(found: Mapping[str, dict[str, Any]]) -> str:
    first = next(iter(found.values()))["metrics"]
    rows = [[name, quality(first[source]), "", ""] for name, source in (("the answer", "oracle"), ("nothing", "none"))]
    rows += [
        [name, quality(each["metrics"]["prior"]), *(f"{each['milliseconds'][str(size)]:.2f}" for size in BATCHES)]
        for name, each in found.items()
    ]
    return table(["codes from", "RMSE (δ1)", *(f"ms, batch {size}" for size in BATCHES)], rows)


PAGE = """# Every quantizer with every prior

Written by `OMP_NUM_THREADS=1 python benchmarks/matrix.py{arguments}`, from the parts that are registered. RMSE in
metres ↓, in brackets δ1 ↑, of the depth of {rows} test scenes, with the likeliest codes, seed {seed}. Milliseconds are
CPU time of one thread from picture to answer, the best of five. One seed and some minutes of training: a few per cent
between two cells mean nothing.

Depth of 32 x 32 scenes: `vit_oracle` with 16 vectors of about eight bits, base and priors of two blocks of width 64;
{steps} steps of stage codes for each quantizer, whose codes all priors of a row learn in {steps} steps of 16 scenes; no
refit. *oracle*: codes from the true depth, the ceiling of a row; *no codes*: the base alone.

{matrix}

## Many codes at once, or one after another

UViM's depth as in recipe `depth/tiny` (64 x 64, 16 codes out of 256, three blocks of width 128), all priors on the same
codes after {guided_steps} steps of each stage, 10 scenes a step, no refit. `masked` writes all 16 codes in T rounds;
the others write them in 16 passes that remember those before (KV cache).

{guided}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("priors", nargs="*", metavar="PRIOR", help="only these, and no page")
    parser.add_argument(
        "--steps", type=int, default=400, help="optimizer steps of a stage; twice as many at the size of depth/tiny"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/matrix"))
    parser.add_argument("--page", type=Path, default=Path("docs/matrix.md"))
    options = parser.parse_args()
    tune()
    import torch

    from cynosure.host import load_host
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.train.checkpoint import write_text

    torch.set_num_threads(1)
    host = load_host()
    lab = Lab(host, options.output.resolve(), use_progress(ConsoleProgress()), options.seed)
    registered = dict.fromkeys([*PRIORS, *host.components.names("prior")])
    priors = options.priors or list(registered)
    cells = {(quantizer, prior): found for quantizer, prior, found in matrix(lab, priors, options.steps)}
    found = dict(guided(lab, priors, 2 * options.steps))
    changed = [name for name in ("steps", "seed") if getattr(options, name) != parser.get_default(name)]
    page = PAGE.format(
        arguments="".join(f" --{name} {getattr(options, name)}" for name in changed),
        rows=TEST_ROWS,
        seed=options.seed,
        steps=options.steps,
        guided_steps=2 * options.steps,
        matrix=matrix_page(cells),
        guided=guided_page(found) if found else "",
    )
    print(page)
    if not options.priors:
        write_text(options.page, page)


if __name__ == "__main__":
    main()
