"""What is frozen stands still: weights, codebooks and running statistics, in every stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_run import make_model, open_session
from torch import nn

from cynosure.core.freezing import freeze
from cynosure.core.guided import GuidedModel


@pytest.fixture
def model(tmp_path: Path) -> GuidedModel:
    return make_model(open_session(tmp_path))


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_without_names_nothing_changes(model: GuidedModel) -> None:
    model.set_stage("codes")
    before = learning(model), [module.training for module in model.modules()]
    freeze(model, ())
    assert (learning(model), [module.training for module in model.modules()]) == before


def test_only_what_is_not_frozen_has_gradients(model: GuidedModel) -> None:
    new = {"base.heads.colorization.weight", "tokenizer.stems.colorization.bias"}
    model.frozen = frozenset(model.state_dict()) - new
    model.set_stage("codes")
    assert learning(model) == new
    model.set_stage("prior")
    assert learning(model) == set()


def test_frozen_codebooks_and_statistics_are_in_evaluation_mode(model: GuidedModel) -> None:
    assert model.tokenizer is not None
    model.frozen = frozenset(n for n in model.state_dict() if not n.startswith(("base.heads.", "tokenizer.stems.")))
    model.set_stage("codes")
    assert not model.tokenizer.quantizer.training
    assert model.tokenizer.training and model.base.training, "what holds something that learns stays in training mode"
    model.frozen = frozenset()
    model.set_stage("codes")
    assert model.tokenizer.quantizer.training, "a stage without frozen names must learn again"


def test_a_module_of_which_one_array_learns_stays_in_training_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).train()
    freeze(model, {name for name in model.state_dict() if name != "1.bias"})
    assert [module.training for module in model] == [False, True]
    model(torch.randn(8, 2))
    assert not model[0].running_mean.any() and model[1].running_mean.any()
