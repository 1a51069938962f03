"""Models are built from what fits together, and loaded without fetching what a checkpoint replaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_run import open_session, save_run

from cynosure.build import build_model
from cynosure.config.checks import TAKEN
from cynosure.core.initial import initial_weights
from cynosure.core.records import CodeSpec, Segment, Shapes
from cynosure.errors import ConfigError, CynosureError
from cynosure.host import load_host
from cynosure.run.evaluate import evaluate
from cynosure.run.loading import load
from cynosure.train.saving import metadata

SHAPES = Shapes((32, 32), {"depth": 1}, CodeSpec((Segment("guide", 4, 1, 8),), None), 4)


@pytest.mark.parametrize("name", ["vit", "hybrid"])
def test_a_base_refuses_codes_that_stand_nowhere(name: str) -> None:
    """Dropping them silently would train a model whose codes mean nothing."""
    with pytest.raises(ValueError, match="code grid"):
        load_host().components.build("base", {"name": name}, SHAPES)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tokenizer", {"name": "vit_oracle", "code_grid": [0, 4]}),
        ("base", {"name": "hybrid", "stem": [0, 16]}),
        ("encoder", {"name": "hybrid", "stem": [16, 6]}),
    ],
)
def test_sizes_that_cannot_be_are_mistakes_in_the_recipe(kind: str, options: dict[str, Any]) -> None:
    """They would end in a division by zero, or in a message of a layer that the user has never heard of."""
    with pytest.raises(ConfigError, match=r"code_grid|stem"):
        load_host().components.config(kind, options)


def test_labels_are_not_smoothed_over_codes_that_a_segment_lacks() -> None:
    spec = CodeSpec((Segment("scene", 2, 1, 4), Segment("image", 4, 1, 8)), None)
    with pytest.raises(ValueError, match="label_smoothing"):
        options = {"name": "autoregressive", "dim": 8, "depth": 1, "heads": 2, "label_smoothing": 0.1}
        load_host().components.build("prior", options, replace(SHAPES, spec=spec), None)


def test_loading_a_run_needs_no_pretrained_weights(tmp_path: Path) -> None:
    """The file that the encoder once started from may be gone: the checkpoint holds what it became."""
    build = load_host().components.build
    options = {"name": "timm", "model": "test_vit", "weights": str(tmp_path / "gone.safetensors")}
    shapes = replace(SHAPES, image_size=(160, 160))
    with pytest.raises(CynosureError, match="gone"):
        build("encoder", options, shapes)
    with initial_weights(False):
        build("encoder", options, shapes)


def test_an_untrained_prior_does_not_answer(tmp_path: Path) -> None:
    """A run that stopped before stage `prior`, or left it out, would otherwise predict from noise without a word."""
    save_run(open_session(tmp_path), tmp_path / "run", prior="untrained")
    predictor = load(tmp_path / "run")
    picture = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(CynosureError, match="no trained prior"):
        predictor.predict(picture, "depth")
    assert predictor.predict(picture, "depth", codes="none").values["depth"].shape == (20, 20)


@pytest.mark.parametrize(
    ("stage", "step", "sets", "taken", "prior"),
    [
        ("codes", 10, [], [], "untrained"),
        ("prior", 0, [], [], "untrained"),
        ("prior", 1, [], [], "trained"),
        ("refit", 0, [], [], "trained"),
        ("refit", 5, ["train.prior.steps=0"], [], "untrained"),
        ("codes", 10, [], ["prior", "tokenizer"], "trained"),
        ("codes", 10, [], ["prior", "tokenizer/depth"], "trained"),
        ("codes", 10, [], ["prior", "tokenizer/quantizer"], "untrained"),
        ("codes", 10, [], ["prior/encoder", "tokenizer"], "untrained"),
        ("codes", 10, [], ["base", "tokenizer"], "untrained"),
    ],
)
def test_a_model_file_says_whether_its_prior_has_learnt(
    tmp_path: Path, stage: str, step: int, sets: list[str], taken: list[str], prior: str
) -> None:
    """`taken`: parts of another model, each without the parts of a name behind the slash."""
    session = open_session(tmp_path, "train.stages=[codes,prior,refit]", *sets)
    model = build_model(session.recipe, session.host)
    names = {
        name
        for part, _, without in (each.partition("/") for each in taken)
        for name in model.state_dict()
        if name.startswith(f"{part}.") and not (without and f".{without}." in name)
    }
    found = {"recipe": session.recipe, "host": session.host, "model": model}
    run: Any = SimpleNamespace(**found, stage=stage, step=step, taken=frozenset(names))
    assert metadata(run)["prior"] == prior


PLUGIN = '''"""Counts the examples of every split."""
from cynosure import hookimpl

seen = []

@hookimpl
def cynosure_transforms(task, split):
    def transform(example, rng):
        seen.append(split)
        return example
    return transform
'''


def test_transforms_of_plugins_reach_evaluation(tmp_path: Path) -> None:
    """A transform that only training applies would make every reported number wrong."""
    (tmp_path / "counting.py").write_text(PLUGIN)
    (tmp_path / "registry.yaml").write_text("schema: 1\nplugins:\n  counting: {path: ./counting.py}\n")
    session = open_session(tmp_path, host=load_host(tmp_path / "registry.yaml"))
    save_run(session, tmp_path / "run")
    evaluate(load(tmp_path / "run", host=session.host), session, ["depth"], limit=2)
    module = next(p.module for p in session.host.plugins if p.name == "counting")
    assert module.seen.count("test") == 2 and "train" in module.seen, "the baseline learns from training rows"


def test_no_task_is_called_what_a_table_of_modules_calls_its_own() -> None:
    tables = (torch.nn.ModuleDict(), torch.nn.ParameterDict())
    own = {name for table in tables for name in dir(table) if not name.startswith("_")}
    assert own <= TAKEN, f"these keys would break the model: {sorted(own - TAKEN)}"
