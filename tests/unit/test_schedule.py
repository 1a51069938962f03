"""The learning rate over a stage, and averaged weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from cynosure.train.schedule import Average, learning_rate, set_learning_rate


def test_warm_up_rises_in_a_line_to_the_peak() -> None:
    assert [learning_rate(s, 100, 2.0, 4, 0.0) for s in range(5)] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])


def test_the_cosine_falls_to_its_share() -> None:
    rates = [learning_rate(s, 100, 2.0, 10, 0.1) for s in range(10, 101)]
    assert rates[0] == 2.0 and rates[45] == pytest.approx(1.1) and rates[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(rates))


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 1), (3, 10)])
def test_short_stages_have_a_rate(steps: int, warmup: int) -> None:
    assert all(0 <= learning_rate(s, steps, 1.0, warmup, 0.0) <= 1 for s in range(steps))
    assert learning_rate(steps - 1, steps, 1.0, warmup, 0.0) > 0


def test_a_group_can_scale_its_rate() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.05]


def averaged(decay: float = 0.9) -> tuple[nn.Linear, Average]:
    module = nn.Linear(2, 2)
    nn.init.zeros_(module.weight)
    return module, Average(dict(module.named_parameters()), decay)


def test_the_average_follows_its_decay() -> None:
    module, average = averaged()
    expected = 0.0
    for step in range(1, 200):
        nn.init.constant_(module.weight, float(step % 7))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 7)
    assert average.values["weight"].mean().item() == pytest.approx(expected, rel=1e-4)


def test_the_start_is_soon_forgotten() -> None:
    """With a constant decay of 0.9999, one hundred steps would leave 99% of the untrained weights in the average."""
    module, average = averaged(0.9999)
    nn.init.ones_(module.weight)
    for step in range(1, 101):
        average.update(step)
    assert average.values["weight"].min() > 0.99


def test_averages_are_applied_and_taken_back() -> None:
    module, average = averaged()
    nn.init.ones_(module.weight)
    own = module.weight.detach().clone()
    with pytest.raises(RuntimeError), average.applied():
        assert torch.equal(module.weight, torch.zeros(2, 2))
        raise RuntimeError
    assert torch.equal(module.weight, own), "an error must not leave the averages in the model"
    average.copy_to_model()
    assert torch.equal(module.weight, torch.zeros(2, 2)) and module.weight.requires_grad


def test_half_precision_weights_are_averaged_in_float32() -> None:
    module = nn.Linear(2, 2).to(torch.bfloat16)
    nn.init.zeros_(module.weight)
    average = Average(dict(module.named_parameters()), 0.9)
    nn.init.constant_(module.weight, 1.0)
    for step in range(100, 110):
        average.update(step)
    assert average.values["weight"].dtype == torch.float32
    assert average.values["weight"].mean().item() == pytest.approx(1 - 0.9**10, rel=1e-4)
