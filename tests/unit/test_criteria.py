"""Criteria in recipes and models: checked, built, trained in stage codes only, not needed to predict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_run import make_model, open_session, save_run

from cynosure.config.editor import json_schema
from cynosure.data.loading import evaluation_batches
from cynosure.errors import ConfigError
from cynosure.host import load_host
from cynosure.run.loading import load
from cynosure.train.checkpoint import read_tensors, write_tensors

PICTURES = ("tasks.depth=null", "tasks.colorization.encoding=rgb")
LOSSES = "[{name: lpips, network: random}, {name: adversarial, channels: 4, layers: 2, ramp: 0}]"
CRITERIA = (*PICTURES, f"model.criteria={LOSSES}")


def problem(folder: Path, *sets: str) -> str:
    with pytest.raises(ConfigError) as raised:
        make_model(open_session(folder, *sets))
    return str(raised.value)


def test_mistakes_in_the_recipe_are_found_by_their_place(tmp_path: Path) -> None:
    found = problem(tmp_path, "model.criteria=[lpip, {name: adversarial, chanels: 4}, 3]")
    assert "model.criteria.0.name" in found and "did you mean 'lpips'" in found
    assert "model.criteria.1.chanels: unknown key, did you mean 'channels'?" in found
    assert "model.criteria.2: must be a name" in found


def test_options_are_completed_and_a_name_is_enough(tmp_path: Path) -> None:
    criteria = open_session(tmp_path, *PICTURES, "model.criteria=[adversarial]").recipe.model.criteria
    assert criteria[0]["name"] == "adversarial" and criteria[0]["weight"] == 0.8


def test_a_task_of_other_channels_is_an_error_of_the_build(tmp_path: Path) -> None:
    assert "task depth has 1" in problem(tmp_path, f"model.criteria={LOSSES}")


def test_logits_are_no_pictures_to_judge(tmp_path: Path) -> None:
    logits = "tasks.painting={name: generation, condition: none, data: scenes, batch_size: 4, cross_entropy: 1.0}"
    assert "cannot judge the outputs of task painting" in problem(tmp_path, *CRITERIA, logits)


def test_editors_know_criteria() -> None:
    schema = json_schema(load_host())
    assert "criterion.adversarial" in schema["$defs"]
    assert schema["$defs"]["Model"]["properties"]["criteria"]["anyOf"][0]["items"] == {"$ref": "#/$defs/criterion"}


def test_without_criteria_a_model_s_state_has_no_trace_of_them(tmp_path: Path) -> None:
    assert not [name for name in make_model(open_session(tmp_path)).state_dict() if name.startswith("criteria")]


def test_criteria_learn_in_stage_codes_and_stand_still_in_others(tmp_path: Path) -> None:
    session = open_session(tmp_path, *CRITERIA)
    model = make_model(session)
    task = model.tasks["colorization"]
    batch = next(evaluation_batches(task, session.rows("colorization", "train"), 4))
    model.set_stage("codes")
    output = model(batch, "codes")
    assert {"color", "lpips", "discriminator", "generator"} <= set(output.logs)
    output.loss.backward()
    waiting = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not waiting, "data-parallel training waits for these"
    model.end_step()
    adversarial = model.criteria[1]
    assert adversarial.steps == 1
    for stage in ("prior", "refit"):
        model.set_stage(stage)
        assert not adversarial.training and not any(p.requires_grad for p in adversarial.parameters())
        assert "discriminator" not in model(batch, stage).logs
        model.end_step()
    assert adversarial.steps == 1


def test_each_criterion_sees_the_losses_before_it(tmp_path: Path) -> None:
    session = open_session(tmp_path, *CRITERIA, "tasks.colorization.loss_weight=3")
    model = make_model(session)
    model.set_stage("codes")
    batch = next(evaluation_batches(model.tasks["colorization"], session.rows("colorization", "train"), 4))
    seen = {}
    for criterion in model.criteria:
        criterion.register_forward_hook(lambda module, given, found: seen.update({type(module).__name__: given}))
    logs = model(batch, "codes").logs
    torch.testing.assert_close(seen["LPIPS"][3].detach(), 3 * logs["color"])
    torch.testing.assert_close(seen["Adversarial"][3].detach(), 3 * logs["color"] + logs["lpips"])
    assert seen["Adversarial"][4] is model.base.heads["colorization"].weight


def test_predicting_needs_no_file_of_a_criterion(tmp_path: Path) -> None:
    session = open_session(tmp_path, *CRITERIA)
    model = save_run(session, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    tensors, told = read_tensors(file)
    assert any(name.startswith("criteria.1.discriminator") for name in tensors)
    told["recipe"] = (
        told["recipe"].replace("network: random", "network: vgg16").replace("weights: null", "weights: gone")
    )
    assert "weights: gone" in told["recipe"]
    write_tensors(file, tensors, told)
    loaded = load(tmp_path / "run")
    assert not loaded.model.criteria
    assert torch.equal(loaded.model.base.heads["colorization"].weight, model.base.heads["colorization"].weight)
