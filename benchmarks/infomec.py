"""How well the codes of QLAE take a scene's factors apart, against the codes of plain VQ-VAEs.

OMP_WAIT_POLICY=passive python benchmarks/infomec.py

All have the same nets, the same optimizer and steps, and write 12 codes. For QLAE each is a number of its own with ten
values of its own; for VQ-VAE each is the nearest of 512 vectors that all 12 share, as in the article's comparison; for
VQ of ten vectors, which is as many bits as QLAE's. The scenes have 7 known factors; InfoMEC and PSNR are those of 5,000
held-out ones. Half an hour on one core; stopped, it goes on where it was. Writes infomec.md beside the runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cynosure.process import tune

LATENTS, VALUES = 12, 10
WIDTHS = (16, 32, 64)
DENSE = (256, 256)
QUANTIZERS: dict[str, dict[str, Any]] = {
    "QLAE": {"quantizer": {"name": "latent", "sizes": [VALUES] * LATENTS, "spread": True}},
    "VQ-VAE": {
        "positions": LATENTS,
        "quantizer": {
            "name": "vq",
            "vocab_size": 512,
            "dim": 64,
            "commitment": 0.25,
            "update": "gradient",
            "normalize": False,
            "min_count": 0,
        },
    },
    "VQ": {
        "positions": LATENTS,
        "quantizer": {"name": "vq", "vocab_size": VALUES, "dim": 16, "commitment": 0.25, "warmup_steps": 150},
    },
}
WITHOUT = ", no weight decay"
ROWS = [quantizer + ending for quantizer in QUANTIZERS for ending in ("", WITHOUT)]
WEIGHT_DECAY = 1.0
"""Published is 0.1, for 200,000 steps: at a rate of 1e-3 it takes 10,000 to act, this in 1,000."""
LEARNING = {"optimizer": "qlae_adamw", "lr": 1e-3, "final_lr": 1.0, "betas": [0.9, 0.999], "clip": 0.0}
"""As published."""
COLUMNS = {"infom": "InfoM", "infoe": "InfoE", "infoc": "InfoC", "active": "active", "psnr": "PSNR"}


def recipe(quantizer: str, weight_decay: float, steps: int, seed: int) -> dict[str, Any]:
    nets = {"convolutions": 1, "dense": list(DENSE)}
    return {
        "seed": seed,
        "image_size": 32,
        "data": {"scenes": {"name": "scene_factors", "size": 32}},
        "tasks": {"generation": {"data": "scenes", "batch_size": 64, "augment": "none"}},
        "model": {
            "tokenizer": {"name": "qlae", "widths": list(WIDTHS), **nets, **QUANTIZERS[quantizer]},
            "base": {"name": "qlae", "widths": list(reversed(WIDTHS)), **nets},
        },
        "train": {
            "stages": ["codes"],
            "codes": {"steps": steps, "weight_decay": weight_decay, **LEARNING},
            "save_every": 500,
        },
    }


def measured(name: str, found: Mapping[str, Any], folder: Path, host: Any, progress: Any) -> dict[str, float]:
    """Metrics of a run on the test split, trained if it has not been."""
    from cynosure.build import Session
    from cynosure.config.recipe import load_recipe
    from cynosure.run.evaluate import evaluate
    from cynosure.run.loading import load
    from cynosure.train.checkpoint import write_text
    from cynosure.train.loop import train
    from cynosure.train.saving import has_progress

    directory = folder / name.lower().replace(", ", "-").replace(" ", "-")
    results, written = directory / "infomec.json", directory.with_suffix(".yaml")
    if not results.is_file():
        progress.say(f"--- {name}")
        write_text(written, json.dumps(found))
        session = Session.open(load_recipe(str(written), [], host), host)
        train(session, directory, resume=has_progress(directory), progress=progress)
        report = evaluate(
            load(directory, host=host), session, split="test", sources=["oracle"], baseline=False, batch_size=100,
            protocol="disentanglement", progress=progress,
        )  # fmt: skip
        write_text(results, json.dumps(report.to_dict(), indent=1))
    values: dict[str, float] = json.loads(results.read_text())["tasks"]["generation"]["metrics"]["oracle"]
    return values


def table(found: Mapping[str, Mapping[str, float]], options: argparse.Namespace) -> str:
    lines = [
        f"Seed {options.seed}, {options.steps} steps, weight decay {options.weight_decay:g}, {LATENTS} codes, 5,000 "
        "held-out scenes.",
        "",
        "| codes | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for name, values in found.items():
        cells = [f"{values[key]:.2f}" if key != "active" else f"{values[key]:.0f} of {LATENTS}" for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weight-decay", type=float, default=WEIGHT_DECAY, help="published: 0.1, for 200,000 steps")
    parser.add_argument("--rows", nargs="*", default=list(QUANTIZERS), choices=ROWS, metavar="ROW")
    parser.add_argument("--output", type=Path, default=Path("runs/infomec"))
    options = parser.parse_args()
    tune()
    from cynosure.host import load_host
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.train.checkpoint import write_text

    host, progress = load_host(), use_progress(ConsoleProgress())
    folder = options.output / f"seed{options.seed}-steps{options.steps}-decay{options.weight_decay:g}"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.rows:
        weight_decay = 0.0 if name.endswith(WITHOUT) else options.weight_decay
        made = recipe(name.removesuffix(WITHOUT), weight_decay, options.steps, options.seed)
        found[name] = measured(name, made, folder, host, progress)
    text = table(found, options)
    write_text(folder / "infomec.md", text)
    print(text)


if __name__ == "__main__":
    main()
