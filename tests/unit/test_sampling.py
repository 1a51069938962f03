"""How codes are sampled: recipe, protocol and command line say it alike, and a prior says what it cannot follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import make_predictor, open_session, save_run
from typer.testing import CliRunner

from cynosure.build import build_model
from cynosure.cli.app import create_app
from cynosure.cli.sampling import given_sampling
from cynosure.core.decoding import check_settings
from cynosure.core.records import CodeSpec, SampleSettings, Segment, Shapes
from cynosure.data.files import write_png
from cynosure.errors import ConfigError, CynosureError
from cynosure.run.sampling import sample_settings
from cynosure_plugins.encoders.label import LabelEncoder
from cynosure_plugins.priors.autoregressive import Autoregressive
from cynosure_plugins.priors.gpt import GPT
from cynosure_plugins.priors.masked import Masked
from cynosure_plugins.priors.rq_transformer import RQTransformer

DEEP = (
    "model.tokenizer.quantizer={name: rq, vocab_size: 8, dim: 4, depth: 2}",
    "model.prior={name: rq_transformer, dim: 16, depth: 1, head_depth: 1, heads: 2, mlp_dim: 32}",
)
ROUNDS = "model.prior={name: masked, dim: 16, depth: 1, heads: 2, mlp_dim: 32}"
PRIORS: tuple[Any, ...] = (Autoregressive, GPT, Masked, RQTransformer)


def deep_prior(kind: Any) -> Any:
    """A prior of codes [6, 2] out of 11 whose weights are all random."""
    torch.manual_seed(0)
    shapes = Shapes((16, 16), {"a": 3}, CodeSpec((Segment("codes", 6, 2, 11),)), 4)
    encoder = LabelEncoder(LabelEncoder.Config(classes=4, dim=16), shapes)
    options = {"embedding": "separate"} if kind is RQTransformer else {}
    prior = kind(kind.Config(dim=16, depth=1, heads=2, mlp_dim=32, **options), shapes, encoder)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior.eval()


# --- every prior


@pytest.mark.parametrize("kind", PRIORS)
def test_every_depth_has_filters_of_its_own(kind: Any) -> None:
    """As RQ-Transformer samples. With the likeliest code at depth 0 only, what follows a greedy code is free."""
    prior, rows = deep_prior(kind), 64
    labels, seeds = {"label": torch.zeros(rows, dtype=torch.long)}, torch.arange(rows)

    def draw(**filters: Any) -> torch.Tensor:
        settings = SampleSettings(temperature=2.0, steps=1 if kind is Masked else None, **filters)
        return prior.sample(labels, "a", settings, seeds).ids

    first, second = draw(top_k=(1, 11)), draw(top_k=(11, 1))
    assert len(first[:, 0, 0].unique()) == 1, "depth 0 keeps to its one code"
    assert len(first[:, 0, 1].unique()) > 3 and len(second[:, 0, 0].unique()) > 3, "the other depth is as free as ever"
    assert torch.equal(draw(top_p=(1e-6, 1.0)), first), "so small a share is the likeliest code"
    assert torch.equal(draw(top_k=(5, 5)), draw(top_k=5))


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("known", [2, 3])
def test_codes_in_the_middle_are_kept_and_the_others_written(kind: Any, known: int) -> None:
    prior = deep_prior(kind)
    labels, seeds = {"label": torch.tensor([0, 3])}, torch.arange(2)
    given = torch.full((2, 6, 2), -1)
    given[:, known] = torch.tensor([[7, 3], [0, 9]])
    ids = prior.sample(labels, "a", SampleSettings(known=given), seeds).ids
    assert torch.equal(ids[:, known], given[:, known]) and (ids >= 0).all()


# --- settings that a prior cannot follow


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (GPT, {"top_k": (4, 3, 2)}, "top_k has 3 values, but codes have depth 2: give one value, or one for each"),
        (GPT, {"top_p": (0.5,)}, "top_p has 1 values, but codes have depth 2"),
        (GPT, {"steps": 4}, "does not write in rounds, so it has no use for steps"),
        (RQTransformer, {"guidance": 2.0, "steps": 4}, "no use for steps.*trained with condition_dropout"),
        (Masked, {"guidance": 2.0}, "trained with condition_dropout"),
    ],
)
def test_a_prior_says_what_it_cannot_follow(kind: Any, settings: dict[str, Any], message: str) -> None:
    prior = deep_prior(kind)
    with pytest.raises(CynosureError, match=message):
        check_settings(SampleSettings(**settings), prior, prior.spec)


def test_what_a_prior_can_follow_passes() -> None:
    prior = deep_prior(Masked)
    check_settings(SampleSettings(steps=4, top_k=(4, 3), guidance=1.0), prior, prior.spec)
    shapes = Shapes((16, 16), {"a": 3}, prior.spec, 4)
    encoder = LabelEncoder(LabelEncoder.Config(classes=4, dim=8), shapes)
    config = GPT.Config(dim=16, depth=1, heads=2, mlp_dim=32, condition_dropout=0.1)
    check_settings(SampleSettings(guidance=3.0), GPT(config, shapes, encoder), prior.spec)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("eval.sampling.steps=4",), "eval.sampling: this prior does not write in rounds"),
        (("eval.sampling.guidance=2",), "eval.sampling: guidance 2 needs a prior that was trained with"),
        (("eval.sampling.top_k=[4, 4]",), "eval.sampling: top_k has 2 values, but codes have depth 1"),
    ],
)
def test_a_recipe_that_samples_as_its_prior_cannot_is_refused_before_training(
    tmp_path: Path, sets: tuple[str, ...], message: str
) -> None:
    session = open_session(tmp_path, *sets)
    with pytest.raises(ConfigError, match=message):
        build_model(session.recipe, session.host)


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"guidance": -1.0},
        {"guidance": float("inf")},
        {"steps": 0},
        {"top_k": (3, 0)},
    ],
)
def test_settings_that_mean_nothing_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        SampleSettings(**field)


# --- who says it


def test_what_is_given_goes_before_the_protocol_and_that_before_the_recipe(tmp_path: Path) -> None:
    recipe = open_session(tmp_path, "eval.sampling={top_k: [5, 4], top_p: 0.9, steps: 3, temperature: 0.5}").recipe
    assert sample_settings(recipe) == SampleSettings(0.5, (5, 4), 0.9, steps=3)
    found = sample_settings(recipe, {"top_p": 0.7, "steps": None}, {"top_p": 0.8, "guidance": 2.0})
    assert found == SampleSettings(0.5, (5, 4), 0.7, 2.0, 3)
    assert sample_settings(recipe, samples=4).temperature == 0.5
    again = type(recipe).model_validate(recipe.model_dump(by_alias=True, mode="json"))
    assert again.eval.sampling == recipe.eval.sampling, "a saved recipe samples differently"


def test_options_of_the_command_line() -> None:
    assert given_sampling(top_k="512,256", top_p="0.9")["top_k"] == (512, 256)
    assert given_sampling(top_k="5", top_p="0.9,1")["top_p"] == (0.9, 1.0) and given_sampling(top_k="5")["top_k"] == 5
    for wrong in ({"top_k": "a"}, {"top_k": "5,"}, {"top_k": "1.5"}, {"top_p": "0.9;0.8"}):
        with pytest.raises(CynosureError, match=r"takes a .* or one for each depth"):
            given_sampling(**wrong)


def invoke(*arguments: Any) -> None:
    done = CliRunner().invoke(create_app(), [str(each) for each in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output


def test_commands_sample_as_they_are_told(tmp_path: Path) -> None:
    session = open_session(tmp_path, *DEEP)
    save_run(session, run := tmp_path / "run")
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file, told = write_png(tmp_path / "photo.png", photo), ["--temperature", "1", "--top-k", "8,1", "--top-p", "0.9"]
    invoke("codes", run, file, "--task", "depth", "-o", tmp_path, *told)
    wanted = make_predictor(session).predict(photo, "depth", temperature=1.0, top_k=(8, 1), top_p=0.9)
    ids = json.loads((tmp_path / "photo.depth.codes.json").read_text())["ids"]
    assert wanted.codes is not None and ids == wanted.codes.tolist()
    invoke("predict", run, file, "--task", "depth", "-o", tmp_path, *told)
    report = tmp_path / "report.json"
    invoke("eval", run, "--task", "depth", "--limit", 2, "--json", report, *told)
    assert json.loads(report.read_text())["settings"]["top_k"] == [8, 1]
    with pytest.raises(CynosureError, match="top_k has 3 values, but codes have depth 2"):
        invoke("predict", run, file, "--task", "depth", "-o", tmp_path, "--top-k", "8,4,2")


def test_rounds_are_counted_by_the_command_line(tmp_path: Path) -> None:
    session = open_session(tmp_path, ROUNDS)
    predictor = make_predictor(session)
    photos = [np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8) for i in range(8)]
    one, four = (predictor.predict(photos, "depth", steps=n, temperature=1.0, seed=1) for n in (1, 4))
    assert [p.codes.tolist() for p in one] != [p.codes.tolist() for p in four]
