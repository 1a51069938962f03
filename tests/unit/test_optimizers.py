"""AdamW, Muon and Adafactor as stages use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cynosure.core.blocks import CrossAttention, SelfAttention, published_shapes
from cynosure.core.records import CodeSpec, Segment, Shapes
from cynosure.errors import TrainingError
from cynosure.train import checkpoint
from cynosure_plugins.bases.vit import ViTBase
from cynosure_plugins.optimizers import adafactor, adamw, muon

SETTINGS = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.98), "lr_scale": {}}
ALL = [(adamw, "adamw"), (muon, "muon"), (adafactor, "adafactor")]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.conv = nn.Conv2d(2, 3, 2)
        self.table = nn.Embedding(5, 4)
        self.places = nn.Parameter(torch.zeros(5, 4))
        self.head = nn.Linear(4, 2)
        self.depth = nn.ModuleDict({"head": nn.ModuleList([nn.Linear(4, 4)])})
        self.classifiers = nn.ModuleList([nn.Linear(4, 2)])


def run(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    settings = {"optimizer": name, **SETTINGS, **settings}
    return SimpleNamespace(stage="codes", settings=SimpleNamespace(**settings), model=Net())


def built(plugin: Any, name: str, **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    given = run(name, **settings)
    optimizer = plugin.cynosure_build_optimizer(run=given)
    assert optimizer is not None
    return given.model, optimizer


def group_of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> Mapping[str, Any]:
    return next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


@pytest.mark.parametrize(("plugin", "other"), [(adamw, "muon"), (muon, "adafactor"), (adafactor, "adamw")])
def test_a_plugin_answers_to_its_own_name_only(plugin: Any, other: str) -> None:
    assert plugin.cynosure_build_optimizer(run=run(other)) is None


@pytest.mark.parametrize(("plugin", "name"), ALL)
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


@pytest.mark.parametrize(("plugin", "name"), ALL)
def test_scales_and_tables_do_not_decay(plugin: Any, name: str) -> None:
    """Embeddings, positions and codebooks: rows that no example uses would only shrink."""
    given = run(name)
    given.model.scales = nn.Parameter(torch.ones(4, 1, 1))
    given.model.table = nn.Embedding(16, 4)
    given.model.positions = nn.Parameter(torch.ones(1, 16, 4))
    optimizer = plugin.cynosure_build_optimizer(run=given)
    assert optimizer is not None
    for parameter in (given.model.scales, given.model.table.weight, given.model.positions):
        assert group_of(optimizer, parameter)["weight_decay"] == 0


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


def test_muon_leaves_tables_heads_and_vectors_to_adamw() -> None:
    """Whatever they are called: with its table stepped as a matrix, prior `masked` learnt no neighbours for long."""
    module, optimizer = built(muon, "muon")
    depth = module.depth["head"][0].weight  # a transformer that is called head writes no output
    assert all(group_of(optimizer, p)["matrices"] for p in (module.inner.weight, module.conv.weight, depth))
    assert not group_of(optimizer, module.classifiers[0].weight)["matrices"]
    for p in (module.table.weight, module.places, module.head.weight, module.inner.bias, module.conv.bias):
        assert not group_of(optimizer, p)["matrices"]


def test_muon_s_other_half_is_adamw() -> None:
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    mine = muon.Muon([{"params": [ours], "matrices": False}], lr=0.01, betas=(0.9, 0.98))
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
    muon.Muon([{"params": [p], "matrices": True}], lr=0.01, betas=(0.9, 0.98)).step()
    assert 0.1 < float(p.detach().square().mean().sqrt()) / 0.01 < 0.4


@pytest.mark.parametrize(("plugin", "name"), ALL)
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


@pytest.mark.parametrize(("plugin", "name"), ALL)
def test_parameters_without_gradient_stay(plugin: Any, name: str) -> None:
    module, optimizer = built(plugin, name)
    before = module.conv.weight.detach().clone()
    module.inner.weight.grad = torch.ones_like(module.inner.weight)
    optimizer.step()
    assert torch.equal(module.conv.weight, before)


# --- factors on the learning rate


@pytest.mark.parametrize(("plugin", "name"), ALL)
def test_the_longest_prefix_scales_the_rate(plugin: Any, name: str) -> None:
    module, optimizer = built(plugin, name, lr_scale={"inner": 0.1, "inner.bias": 0.5})
    scales = {p: group_of(optimizer, p)["lr_scale"] for p in module.parameters()}
    assert (scales[module.inner.weight], scales[module.inner.bias], scales[module.head.weight]) == (0.1, 0.5, 1)
    assert group_of(optimizer, module.inner.weight)["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("prefix", ["inne", "head.weights", "embeding.weight"])
def test_a_prefix_of_no_trained_parameter_is_an_error(prefix: str) -> None:
    with pytest.raises(TrainingError, match=rf"train.codes.lr_scale: .*'{prefix}', did you mean '"):
        built(adamw, "adamw", lr_scale={prefix: 0.1, "conv": 0.5})


# --- Adafactor


def test_only_weights_of_linear_layers_and_convolutions_decay_as_much_as_is_said() -> None:
    """At the peak of the schedule a step takes off the share `weight_decay`, whatever the learning rate."""
    module, optimizer = built(adafactor, "adafactor", lr_scale={"inner": 0.1}, weight_decay=0.3)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer.step()
    for name, p in module.named_parameters():
        decays = name.endswith("weight") and name != "table.weight"
        torch.testing.assert_close(p.detach(), before[name] * (0.7 if decays else 1.0), msg=name)


def fuse(kind: str) -> nn.Module:
    """Parts whose parameters the published code keeps apart."""
    torch.manual_seed(0)
    spec = CodeSpec((Segment("guide", 1, 1, 4),), (1, 1))
    parts = {
        "self": lambda: SelfAttention(64, 2),
        "cross": lambda: CrossAttention(64, 2, 48),
        "heads": lambda: ViTBase(ViTBase.Config(patch=6, dim=40, depth=0), Shapes((6, 6), {"a": 35}, spec, 8)),
    }
    return parts[kind]()


PIECES = [
    ("self", "qkv.weight", lambda w: w.reshape(3 * 2, 32, 64)),
    ("self", "out.weight", lambda w: w.reshape(64, 2, 32).transpose(0, 1)),
    ("cross", "kv.weight", lambda w: w.reshape(2 * 2, 32, 48)),
    ("cross", "q.weight", lambda w: w.reshape(2, 32, 64)),
    ("heads", "heads.a.weight", lambda w: w.reshape(35, 36, 40)),
    ("heads", "heads.a.bias", lambda w: w.reshape(1, 35, 36)),
]


@pytest.mark.parametrize(("kind", "name", "pieces"), PIECES, ids=[name for _, name, _ in PIECES])
def test_fused_weights_are_factored_like_the_matrices_they_hold(kind: str, name: str, pieces: Any) -> None:
    """Every head and every label channel moves as if it were a parameter of its own."""
    module = fuse(kind)
    fused = dict(module.named_parameters())[name]
    parts = [nn.Parameter(p.clone()) for p in pieces(fused.detach())]
    whole = adafactor.Adafactor([{"params": [fused]}], 0.01, shapes={fused: published_shapes(module)[name]})
    alone = adafactor.Adafactor([{"params": parts}], 0.01)
    for seed in range(3):
        fused.grad = torch.randn(fused.shape, generator=torch.Generator().manual_seed(seed))
        for part, gradient in zip(parts, pieces(fused.grad), strict=True):
            part.grad = gradient.contiguous()
        whole.step()
        alone.step()
    assert "rows" in whole.state[fused], "this test needs a tensor that is factored"
    torch.testing.assert_close(pieces(fused.detach()), torch.stack([p.detach() for p in parts]))


def test_adafactor_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    """torch would bring the momentum back in float32."""

    def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        module = nn.Sequential(nn.Linear(48, 40), nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last))
        return module, adafactor.Adafactor([{"params": list(module.parameters()), "weight_decay": 0.1}], 0.01)

    (module, optimizer), (copy, resumed) = make(), make()
    for seed in (0, 1):
        step(module, optimizer, seed)
    checkpoint.write_tensors(tmp_path / "file", checkpoint.optimizer_tensors(optimizer))
    copy.load_state_dict(module.state_dict())
    checkpoint.load_optimizer(resumed, checkpoint.read_tensors(tmp_path / "file")[0])
    assert {s["momentum"].dtype for s in resumed.state.values()} == {torch.bfloat16}
    for seed in (2, 3):
        step(module, optimizer, seed)
        step(copy, resumed, seed)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), copy.parameters(), strict=True))
