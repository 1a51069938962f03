"""A run that begins with another run's weights: what is taken, what is new, what stands still."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import CODES_ONLY, INTERRUPTS, Messages, Project, log, same, weights

import cynosure
from cynosure.errors import CheckpointError, ConfigError, CynosureError, TrainingError
from cynosure.run.evaluate import evaluate
from cynosure.train import checkpoint as files
from cynosure.train.interrupt import Stopped

OLD = ("tasks.colorization=null",)
ADDED = ("tasks.depth.weight=0", "init.from=old", "init.freeze=true")
"""Colorization joins a model that knows depth, whose weights stand still."""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows depth only. Never changed."""
    project = Project(tmp_path_factory.mktemp("old"))
    project.train("old", *OLD)
    return project.folder / "old"


@pytest.fixture
def home(project: Project, old: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with the old run beside its recipe, as the present folder."""
    shutil.copytree(old, project.folder / "old")
    monkeypatch.chdir(project.folder)
    return project


@pytest.fixture(scope="module")
def added(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has added colorization to the old one."""
    project = Project(tmp_path_factory.mktemp("added"))
    shutil.copytree(old, project.folder / "old")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        project.train("new", *ADDED)
    return project.folder / "new"


# --- adding a task


def test_an_added_task_leaves_every_old_weight_and_statistic_alone(old: Path, added: Path) -> None:
    before, after = weights(old), weights(added)
    assert same(before, {name: after[name] for name in before})
    shared = ("base.trunk", "prior.encoder.trunk", "tokenizer")
    offsets = {f"{part}.transformer.offsets.depth" for part in shared}
    apart = {f"prior.{what}.depth" for what in ("task_positions", "task_biases")} | offsets  # of several tasks alone
    assert {name for name in after if name not in before} - apart == {n for n in after if "colorization" in n}
    assert not any(after[name].any() for name in apart), "they begin as nothing, and stay so"


def test_an_added_task_leaves_old_predictions_alone_to_the_last_bit(old: Path, added: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for codes in ("prior", "none", "random"):
        answers = [cynosure.load(run).predict(picture, task="depth", codes=codes) for run in (old, added)]
        assert np.array_equal(answers[0].values["depth"], answers[1].values["depth"]), f"codes from {codes}"


def test_an_added_task_learns(added: Path) -> None:
    new = [n for n in weights(added) if "colorization" in n]
    checkpoints = files.step_directories(added)
    first = weights(checkpoints[0])
    still = [n for n in new if torch.equal(first[n], weights(added)[n])]
    assert not still, f"these belong to the new task and did not move: {still}"
    assert all("depth/loss" not in line for line in log(added)), "a task of weight 0 is not trained"
    assert "colorization" in cynosure.load(added).tasks


def test_a_run_says_what_it_takes(home: Project) -> None:
    messages = Messages()
    home.train("new", *ADDED, *CODES_ONLY, progress=messages)
    assert any(
        "arrays are taken from old/model.safetensors" in s and "base.heads.colorization" in s for s in messages.said
    )


def test_an_interrupted_run_goes_on_without_its_source(home: Project, added: Path) -> None:
    home.plugin("interrupts", INTERRUPTS)
    with pytest.raises(Stopped):
        home.train("new", *ADDED)
    shutil.rmtree("old")
    home.plugin("interrupts", "from cynosure import hookimpl\n@hookimpl\ndef cynosure_train_start(run): pass\n")
    home.train("new", *ADDED, resume=True)
    assert same(weights(home.folder / "new"), weights(added))
    assert log(home.folder / "new") == log(added)


@pytest.mark.parametrize("gone", ["nowhere", "./gone/pictures"], ids=["on the hub", "here"])
def test_the_data_of_old_tasks_may_be_gone(home: Project, gone: str) -> None:
    recipe = home.folder / "old/recipe.yaml"
    text = recipe.read_text().replace("data:\n", f"data:\n  gone: {{name: images, source: {gone}}}\n", 1)
    recipe.write_text(text)
    add = "{data: scenes, batch_size: 2, encoding: residual}"
    home.recipe.write_text(
        "base: old/recipe.yaml\ninit: {from: old, freeze: true}\n"
        f"tasks: {{depth: {{weight: 0, data: gone}}, colorization: {add}}}\n"
    )
    home.train("new", *CODES_ONLY, "train.eval_every=2", evaluate=_evaluate())
    assert cynosure.load(home.folder / "new").tasks.keys() == {"depth", "colorization"}
    with pytest.raises(CynosureError, match=re.escape(gone)):
        home.session().rows("depth", "test")
    messages = Messages()
    assert _measured(home, messages) == {"colorization"}
    assert any("task depth is not measured, its data are gone" in text for text in messages.said)
    with pytest.raises(CynosureError, match=re.escape(gone)):
        _measured(home, messages, tasks=["depth"])


def _measured(home: Project, messages: Messages, **options: Any) -> set[str]:
    """The tasks in an evaluation of the run new."""
    predictor = cynosure.load(home.folder / "new")
    return set(evaluate(predictor, home.session(), baseline=False, progress=messages, **options).tasks)


def _evaluate():  # type: ignore[no-untyped-def]
    from cynosure.run.evaluate import during_training

    return during_training


def test_several_processes_add_a_task(home: Project, added: Path) -> None:
    sets = [word for each in (*ADDED, *CODES_ONLY) for word in ("--set", each)]
    done = home.command(
        "train", "recipe.yaml", "-o", "new", *sets, processes=2, PYTHONPATH=os.environ.get("PYTHONPATH", "")
    )
    assert done.returncode == 0, done.stderr
    before, after = weights(home.folder / "old"), weights(home.folder / "new")
    assert same(before, {n: after[n] for n in before})


def test_a_task_that_has_nothing_to_learn_is_named(home: Project, added: Path) -> None:
    shutil.copytree(added, home.folder / "added")
    third = "tasks.panoptic={data: scenes, batch_size: 2, max_instances: 6, augment: flip}"
    with pytest.raises(TrainingError, match=r"all that the task uses is frozen: set tasks\.depth\.weight to 0"):
        home.train("new", third, "tasks.colorization.weight=0", "init.from=added", "init.freeze=true", *CODES_ONLY)


def test_a_stage_that_has_nothing_to_learn_is_named_at_the_start(home: Project) -> None:
    with pytest.raises(TrainingError, match="all that stage codes trains is frozen: take it out"):
        home.train("new", *OLD, "init.from=old", "init.freeze=true")


# --- what is taken


def test_a_run_begins_with_all_of_another(home: Project) -> None:
    run = home.train("new", *OLD, "init.from=old", "train.codes.steps=0", "train.prior.steps=0", "train.refit.steps=0")
    assert same(run.model.state_dict(), weights(home.folder / "old"))


def test_what_is_taken_learns_on_unless_it_is_frozen(home: Project) -> None:
    home.train("new", *OLD, "init.from=old", "init.freeze=[tokenizer]", *CODES_ONLY)
    before, after = weights(home.folder / "old"), weights(home.folder / "new")
    for part in ("base.", "tokenizer."):
        unchanged = same(*({n: v for n, v in each.items() if n.startswith(part)} for each in (before, after)))
        assert unchanged == (part == "tokenizer.")


def test_a_file_of_one_part_is_enough(home: Project) -> None:
    """Such as a language model that was converted."""
    prior = {n: v for n, v in weights(home.folder / "old").items() if n.startswith("prior.")}
    files.write_tensors(home.folder / "language.safetensors", prior)
    sets = ("init.from=language.safetensors", "train.codes.steps=0", "train.prior.steps=0", "train.refit.steps=0")
    run = home.train("new", *OLD, *sets)
    state = run.model.state_dict()
    assert same({n: v for n, v in state.items() if n.startswith("prior.")}, prior)
    assert not torch.equal(state["base.code_stem.weight"], weights(home.folder / "old")["base.code_stem.weight"])


def test_a_taken_prior_is_not_overwritten_by_the_base(home: Project) -> None:
    home.train("new", *OLD, "init.from=old", "init.freeze=[prior.encoder]", "train.refit.steps=0")
    name = "prior.encoder.trunk.patches.weight"
    assert torch.equal(weights(home.folder / "new")[name], weights(home.folder / "old")[name])


def test_a_prior_that_has_not_learnt_yet_is_not_taken(home: Project) -> None:
    messages, source = Messages(), "old/checkpoints/0-codes-00000005"
    run = home.train("new", *OLD, f"init.from={source}", *CODES_ONLY, progress=messages)
    assert any("begin anew (prior)" in text for text in messages.said)
    assert not any(name.startswith("prior.") for name in run.taken)
    assert cynosure.load(home.folder / "new").model.prior is None
    home.train("whole", *OLD, "init.from=old", *CODES_ONLY)
    assert cynosure.load(home.folder / "whole").model.prior is not None, "a prior that was taken can predict"


def test_another_shape_is_an_error_that_says_how_to_go_on(home: Project) -> None:
    wider = ("init.from=old", "model.tokenizer.patch=4", *OLD, *CODES_ONLY)
    with pytest.raises(CheckpointError, match=r"(?s)another shape.*init.fresh: \[(.*)\]") as caught:
        home.train("new", *wider)
    named = str(caught.value).rpartition("init.fresh: ")[2].rstrip(".")
    home.train("new", *wider, f"init.fresh={named}")


def test_a_codebook_of_another_size_is_an_error_that_names_the_option(home: Project) -> None:
    said = r"quantizer\.\w+ is \[8.*here \[16.*change model\.tokenizer\.quantizer, model\.prior in"
    with pytest.raises(CheckpointError, match=said):
        home.train("new", "init.from=old", "model.tokenizer.quantizer.vocab_size=16", *OLD, *CODES_ONLY)


@pytest.mark.parametrize(
    ("sets", "error", "said"),
    [
        (["init.from=nowhere"], CheckpointError, "there is no nowhere: train a run first"),
        (["init.from=foreign.safetensors"], CheckpointError, "its names begin with vision, here with base, prior, tok"),
        (["init.from=old", "init.fresh=[base.heds]"], TrainingError, r"'base.heds', did you mean 'base.heads'"),
        (["init.from=old", "init.freeze=[bas]"], TrainingError, r"init.freeze: .*'bas', did you mean 'base'"),
        (["init={}"], ConfigError, "init.from"),
        (["tasks.depth.weight=0", "tasks.colorization.weight=0"], ConfigError, "all have weight 0"),
        (["tasks.depth.weight=0", "train.refit.tasks=[depth]"], ConfigError, "depth has weight 0 and is not trained"),
    ],
)
def test_what_cannot_be_is_one_sentence(home: Project, sets: list[str], error: type[Exception], said: str) -> None:
    files.write_tensors(home.folder / "foreign.safetensors", {"vision.weight": torch.zeros(2)})
    with pytest.raises(error, match=said):
        home.train("new", *sets)


def test_a_resumed_run_may_not_change_its_source(home: Project) -> None:
    home.train("new", *ADDED, *CODES_ONLY)
    os.remove(home.folder / "new" / files.MODEL)
    with pytest.raises(CheckpointError, match=r"init\.from differ"):
        home.train("new", *ADDED, *CODES_ONLY, "init.from=other", resume=True)
    assert json.loads((files.step_directories(home.folder / "new")[-1] / files.STATE).read_text())["taken"]
