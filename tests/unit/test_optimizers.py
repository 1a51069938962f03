"""AdamW and Muon as stages use them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cynosure_plugins.optimizers import adamw, muon

SETTINGS = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.98)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.conv = nn.Conv2d(2, 3, 2)
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 2)


def run(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return SimpleNamespace(settings=SimpleNamespace(optimizer=name, **{**SETTINGS, **settings}), model=Net())


def built(plugin: Any, name: str, **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    given = run(name, **settings)
    optimizer = plugin.cynosure_build_optimizer(run=given)
    assert optimizer is not None
    return given.model, optimizer


def group_of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> Mapping[str, Any]:
    return next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


@pytest.mark.parametrize(("plugin", "other"), [(adamw, "muon"), (muon, "adamw")])
def test_a_plugin_answers_to_its_own_name_only(plugin: Any, other: str) -> None:
    assert plugin.cynosure_build_optimizer(run=run(other)) is None


@pytest.mark.parametrize(("plugin", "name"), [(adamw, "adamw"), (muon, "muon")])
def test_only_what_the_stage_trains_is_given(plugin: Any, name: str) -> None:
    given = run(name)
    given.model.conv.requires_grad_(False)
    optimizer = plugin.cynosure_build_optimizer(run=given)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in given.model.parameters() if p.requires_grad}


@pytest.mark.parametrize(("plugin", "name"), [(adamw, "adamw"), (muon, "muon")])
def test_only_vectors_keep_their_weight(plugin: Any, name: str) -> None:
    module, optimizer = built(plugin, name)
    assert group_of(optimizer, module.inner.weight)["weight_decay"] == 0.1
    assert group_of(optimizer, module.inner.bias)["weight_decay"] == 0


def test_adamw_takes_rate_and_betas_from_the_stage() -> None:
    _, optimizer = built(adamw, "adamw", lr=0.5, betas=(0.7, 0.8))
    assert all(g["lr"] == 0.5 and g["betas"] == (0.7, 0.8) for g in optimizer.param_groups)


@pytest.mark.parametrize("shape", [(8, 8), (4, 32), (32, 4)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrices = (
        torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    )
    result = muon.orthogonalize(matrices)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result)
    assert 0.6 < values.median() < 1.3 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert float(((u @ v) * result).sum() / result.norm() / (u @ v).norm()) > 0.9, "not the nearest orthogonal factor"


def test_muon_leaves_embeddings_heads_and_vectors_to_adamw() -> None:
    module, optimizer = built(muon, "muon")
    assert all(group_of(optimizer, p)["matrices"] for p in (module.inner.weight, module.conv.weight))
    for p in (module.embedding.weight, module.head.weight, module.inner.bias, module.conv.bias):
        assert not group_of(optimizer, p)["matrices"]


def test_muon_s_other_half_is_adamw() -> None:
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    mine = muon.Muon([], [ours], lr=0.01, weight_decay=0.0, betas=(0.9, 0.98))
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.0, betas=(0.9, 0.98))
    for seed in range(5):
        ours.grad = torch.randn(5, generator=torch.Generator().manual_seed(seed))
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_muon_step_has_the_size_of_an_adamw_step() -> None:
    """So that one learning rate serves both (Liu et al. 2025)."""
    p = nn.Parameter(torch.zeros(64, 16))
    p.grad = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    muon.Muon([p], [], lr=0.01, weight_decay=0.0, betas=(0.9, 0.98)).step()
    assert 0.1 < float(p.detach().square().mean().sqrt()) / 0.01 < 0.4


@pytest.mark.parametrize(("plugin", "name"), [(adamw, "adamw"), (muon, "muon")])
def test_the_loss_goes_down(plugin: Any, name: str) -> None:
    module, optimizer = built(plugin, name, lr=0.05)
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    y = x @ torch.randn(6, 2, generator=torch.Generator().manual_seed(2))
    losses = []
    for _ in range(60):
        loss = (module.head(module.inner(x)) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_parameters_without_gradient_stay() -> None:
    module, optimizer = built(muon, "muon")
    before = module.conv.weight.detach().clone()
    module.inner.weight.grad = torch.ones_like(module.inner.weight)
    optimizer.step()
    assert torch.equal(module.conv.weight, before)
