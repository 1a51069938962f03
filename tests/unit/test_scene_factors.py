"""Scenes of known factors: each factor is seen, no scene is in two splits; InfoMEC by the public evaluation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cynosure.build import Session, build_model
from cynosure.config.recipe import load_recipe
from cynosure.data.scenes.factors import COUNT, FACTORS, factors_of, render_factors
from cynosure.errors import DataError
from cynosure.host import load_host
from cynosure.run.evaluate import evaluate
from cynosure_plugins.datasets.scene_factors import SceneFactors

RECIPE = """
image_size: 16
data: {scenes: {name: scene_factors, size: 16, train: 8, validation: 8, test: 40}}
tasks: {generation: {data: scenes}}
model:
  tokenizer: {name: qlae, widths: [4, 8], convolutions: 1, dense: [], quantizer: QUANTIZER}
  base: {name: qlae, widths: [8, 4], convolutions: 1, dense: []}
train: {stages: [codes]}
"""


def test_numbers_and_factors_say_the_same() -> None:
    factors = factors_of(np.arange(COUNT))
    assert len(np.unique(factors, axis=0)) == COUNT
    assert (factors.max(0) + 1).tolist() == list(FACTORS.values()) and factors.min() == 0


def test_every_value_of_every_factor_is_seen() -> None:
    """In the middle of the others; a value that looks like another could not be told from it by any code."""
    middle = np.array([count // 2 for count in FACTORS.values()])
    for place, (factor, count) in enumerate(FACTORS.items()):
        factors = np.tile(middle, (count, 1))
        factors[:, place] = np.arange(count)
        pictures = render_factors(factors, 32).astype(int)
        for one in range(count):
            for other in range(one):
                change = np.abs(pictures[one] - pictures[other]).max()
                assert change > 20, f"values {other} and {one} of {factor} look alike"


def test_a_scene_is_in_one_split_only() -> None:
    dataset = SceneFactors(SceneFactors.Config(size=16, train=9, validation=7, test=5))
    parts = [dataset.rows(split) for split in ("train", "validation", "test")]
    seen = [tuple(row["factors"]) for part in parts for row in part]
    assert len(seen) == len(set(seen)) == 21
    row = parts[1][3]
    assert np.array_equal(row["image"], render_factors(row["factors"][None], 16)[0]), "picture and factors disagree"


def test_more_scenes_than_there_are_cannot_be_asked_for() -> None:
    with pytest.raises(ValidationError, match="36000 scenes"):
        SceneFactors.Config(train=36000)
    with pytest.raises(DataError, match="split"):
        SceneFactors(SceneFactors.Config(size=16)).rows("trainn")


@pytest.mark.parametrize(
    "quantizer",
    ["{name: latent, sizes: [3, 5, 4], spread: true}", "{name: rq, vocab_size: 4, dim: 3, depth: 2}"],
)
def test_infomec_of_a_model_s_codes(quantizer: str, tmp_path: Path) -> None:
    """By `cynosure eval --protocol disentanglement`; only the oracle's codes are of a picture with factors."""
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.replace("QUANTIZER", quantizer))
    host = load_host()
    session = Session.open(load_recipe(file, [], host), host)
    model = build_model(session.recipe, host)
    found = evaluate(model, session, split="test", batch_size=16, protocol="disentanglement")
    metrics = found.tasks["generation"].metrics
    assert set(metrics["oracle"]) == {"infom", "infoe", "infoc", "active", "psnr"}
    assert 0 <= metrics["oracle"]["infoe"] <= 1 and metrics["oracle"]["active"] >= 1
    assert "infom" not in metrics["random"]


def test_the_recipes_of_the_documentation_build(tmp_path: Path) -> None:
    """QLAE's, and what Tripod changes of it."""
    page = (Path(__file__).parents[2] / "docs" / "disentangling.md").read_text()
    qlae, tripod = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "qlae.yaml").write_text(qlae)
    (tmp_path / "tripod.yaml").write_text(tripod)
    host = load_host()
    for name, penalties in (("qlae", set()), ("tripod", {"curvature"})):
        model = build_model(load_recipe(tmp_path / f"{name}.yaml", [], host), host)
        assert model.tokenizer is not None
        vectors = torch.rand(2, 1, model.tokenizer.code_dim)
        assert set(model.base.penalties(vectors, "generation")) == penalties
        quantized = model.tokenizer.quantizer(vectors)
        assert ("multi_information" in quantized.losses) == (name == "tripod")
