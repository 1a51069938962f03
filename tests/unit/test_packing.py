"""Packed weights while a prior samples: the same answers, never of old weights, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cynosure.core.blocks import MLP, Gelu
from cynosure.core.packing import sampling


def packed(module: nn.Module) -> bool:
    return any("forward" in vars(part) for part in module.modules())


@pytest.mark.parametrize("gelu", ["tanh", "none"])
@pytest.mark.parametrize("rows", [1, 8, 70])
def test_packed_layers_answer_the_same(gelu: Gelu, rows: int) -> None:
    mlp, x = MLP(48, 96, gelu), torch.randn(rows, 3, 48)
    state = list(mlp.state_dict())
    with sampling(mlp):
        assert packed(mlp), "nothing was packed on a CPU"
        assert list(mlp.state_dict()) == state
        answer = mlp(x)
    torch.testing.assert_close(answer, mlp(x), rtol=1e-5, atol=1e-5)
    assert not packed(mlp), "a packed copy was left behind"


@pytest.mark.parametrize("change", ["optimizer", "load_state_dict"])
def test_the_next_sample_reads_changed_weights(change: str) -> None:
    layer, x = nn.Linear(32, 16), torch.randn(4, 32)
    with sampling(layer):
        before = layer(x)
    if change == "optimizer":
        layer(x).sum().backward()
        torch.optim.SGD(layer.parameters(), lr=1.0).step()
    else:
        layer.load_state_dict(nn.Linear(32, 16).state_dict())
    with sampling(layer):
        after = layer(x)
    torch.testing.assert_close(after, layer(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after, before)


def test_layers_are_restored_after_an_error() -> None:
    mlp = MLP(8, 16)
    with pytest.raises(RuntimeError), sampling(mlp):
        mlp(torch.zeros(1, 9))
    assert not packed(mlp)


def test_hooks_see_what_they_would_see() -> None:
    layer, x = nn.Linear(8, 16), torch.randn(2, 8)
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _, __, y: seen.append(y))
    with sampling(layer):
        y = layer(x)
    assert seen and seen[0] is y


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("layer", [nn.Linear(8, 8).to(torch.bfloat16), Doubled(8, 8)], ids=["bfloat16", "own class"])
def test_what_cannot_be_packed_stays(layer: nn.Module) -> None:
    with sampling(layer):
        assert not packed(layer)


def test_under_autocast_nothing_is_packed() -> None:
    layer = nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16), sampling(layer):
        assert not packed(layer)
        assert layer(torch.randn(1, 8)).dtype == torch.bfloat16


def test_without_the_operator_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = nn.Linear(8, 8)
    with sampling(layer):
        assert not packed(layer)
