"""A short training learns: the one test that notices when everything runs and nothing is learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cynosure.cli.app import main

SETS = """
image_size=32 data.scenes.size=32 data.scenes.train=512 data.scenes.validation=16 data.scenes.test=64
train.codes.steps=250 train.prior.steps=60 train.prior.views=1 train.refit.steps=20 train.refit.examples=128
model.tokenizer.code_grid=[2,2] model.tokenizer.quantizer.vocab_size=32 model.tokenizer.quantizer.min_count=1
model.tokenizer.quantizer.warmup_steps=30
"""


def run(*arguments: str) -> None:
    try:
        main(arguments)
    except SystemExit as stopped:
        assert stopped.code in (0, None), f"cynosure {' '.join(arguments)} failed"


@pytest.fixture(scope="module")
def depth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Depth of small scenes after half a minute of training, measured on scenes that it has not seen."""
    folder = tmp_path_factory.mktemp("learning")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CYNOSURE_CACHE", str(folder / "cache"))
        run("train", "depth/tiny", "-o", "run", *[f"--set={each}" for each in SETS.split()])
        run("eval", "run", "--split", "test", "--json", "found.json")
    found: dict[str, Any] = json.loads(Path(folder / "found.json").read_text())["tasks"]["depth"]
    return found


def test_the_prediction_is_far_better_than_the_trivial_one(depth: dict[str, Any]) -> None:
    metrics = depth["metrics"]
    assert metrics["prior"]["rmse"] < 0.6 * metrics["baseline"]["rmse"]


def test_codes_help_and_wrong_codes_hurt(depth: dict[str, Any]) -> None:
    """A base that ignores its codes looks fine by its loss: only this comparison shows it."""
    metrics = depth["metrics"]
    assert metrics["oracle"]["d1"] > metrics["none"]["d1"] > metrics["random"]["d1"]


def test_the_prior_is_not_worse_than_no_codes(depth: dict[str, Any]) -> None:
    metrics = depth["metrics"]
    assert metrics["prior"]["d1"] > metrics["none"]["d1"] - 0.02


def test_the_codebook_is_in_use(depth: dict[str, Any]) -> None:
    assert depth["codes"]["oracle"]["perplexity"] > 3
