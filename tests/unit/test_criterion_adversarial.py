"""Criterion `adversarial`: who learns from what, when each term counts, how the terms are balanced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cynosure.core.records import Shapes
from cynosure_plugins.criteria.adversarial import ANCHOR_DECAY, Adversarial, adaptive_weight
from cynosure_plugins.criteria.discriminator import ActNorm

SHAPES = Shapes((16, 16), {"picture": 3})
TARGETS = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def make(**options: Any) -> Adversarial:
    torch.manual_seed(0)
    return Adversarial(
        Adversarial.Config(**{"channels": 4, "layers": 2, "lead": 0, "ramp": 0, **options}), SHAPES
    ).train()


def pictures(seed: int = 0) -> tuple[torch.Tensor, nn.Parameter]:
    """Reconstructions and the weight that wrote them."""
    last = nn.Parameter(torch.full((1, 3, 1, 1), 0.5))
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return x * last, last


def judge(criterion: Adversarial, seed: int = 0, known: bool = True) -> tuple[dict[str, torch.Tensor], nn.Parameter]:
    outputs, last = pictures(seed)
    reconstruction = (outputs - TARGETS).abs().mean()
    return criterion(outputs, TARGETS, "picture", reconstruction, last if known else None), last


def test_adaptive_weight_is_the_ratio_of_the_gradients() -> None:
    last = nn.Parameter(torch.ones(4))
    found = adaptive_weight(3 * last.sum(), -2 * last.sum(), last)
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.tensor(6 / (4 + 1e-4)))
    assert adaptive_weight(last.sum(), 0 * last.sum(), last) == 1e4, "it is bounded"


def test_generator_term_has_the_gradient_of_the_reconstruction_times_its_weight() -> None:
    losses, last = judge(make(weight=0.5))
    outputs, again = pictures()
    wanted = torch.autograd.grad((outputs - TARGETS).abs().mean(), again)[0].norm()
    found = torch.autograd.grad(losses["generator"], last)[0].norm()
    torch.testing.assert_close(found, 0.5 * wanted, rtol=1e-2, atol=0.0)


def test_without_a_last_layer_gradients_are_balanced_at_the_pictures() -> None:
    criterion = make(weight=1.0)
    outputs = pictures()[0].detach().requires_grad_()
    reconstruction = (outputs - TARGETS).abs().mean()
    generator = criterion(outputs, TARGETS, "picture", reconstruction, None)["generator"]
    found, wanted = (torch.autograd.grad(loss, outputs)[0].norm() for loss in (generator, reconstruction))
    torch.testing.assert_close(found, wanted, rtol=5e-2, atol=0.0)


def test_fixed_weight() -> None:
    criterion = make(adaptive=False, weight=0.1)
    losses, _ = judge(criterion)
    answers = criterion.discriminator(pictures()[0])
    torch.testing.assert_close(losses["generator"], -0.1 * answers.mean())
    assert judge(make(adaptive=False, loss="nonsaturating"))[0]["generator"] > 0


def test_neither_side_learns_from_the_other_s_term() -> None:
    criterion = make()
    losses, last = judge(criterion)
    losses["generator"].backward(retain_graph=True)
    assert last.grad is not None and last.grad.any()
    assert all(p.grad is None for p in criterion.parameters()), "the discriminator learns to be fooled"
    last.grad = None
    losses["discriminator"].backward()
    assert last.grad is None, "the model learns to be told apart"
    assert all(p.grad is not None and p.grad.any() for p in criterion.parameters() if p.ndim > 1)


def test_one_backward_pass_gives_both_their_gradients() -> None:
    together, apart = make(), make()
    losses, last = judge(together)
    torch.stack(list(losses.values())).sum().backward()
    losses, alone = judge(apart)
    losses["generator"].backward()
    losses["discriminator"].backward()
    torch.testing.assert_close(last.grad, alone.grad)
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_phases() -> None:
    """start 4, lead 2, ramp 1: nothing, the discriminator alone, half of the generator's term, all of it."""
    criterion, full = make(start=4, lead=2, ramp=1), float(judge(make())[0]["generator"].detach())
    shares = []
    for step in range(7):
        losses, _ = judge(criterion)
        assert bool(losses["discriminator"].detach() > 0) == (step >= 2), f"step {step}"
        shares.append(float(losses["generator"].detach()) / full if "generator" in losses else 0.0)
        criterion.end_step()
    assert shares == pytest.approx([0, 0, 0, 0, 0.5, 1, 1])


def test_as_published_the_discriminator_begins_with_the_generator_s_term() -> None:
    criterion = make(start=1)
    losses, _ = judge(criterion)
    assert list(losses) == ["discriminator"] and losses["discriminator"] == 0
    losses["discriminator"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in criterion.parameters()), (
        "data-parallel training waits for a gradient of every parameter"
    )
    criterion.end_step()
    assert set(judge(criterion)[0]) == {"discriminator", "generator"}


def test_a_frozen_model_still_teaches_the_discriminator() -> None:
    outputs = pictures()[0].detach()
    losses = make()(outputs, TARGETS, "picture", (outputs - TARGETS).abs().mean(), None)
    assert list(losses) == ["discriminator"]


def test_steps_and_anchors_are_counted_once_a_step_and_saved() -> None:
    criterion = make(lecam=0.1)
    answers = []
    for seed in (0, 1):  # two micro-batches of one step
        judge(criterion, seed)
        with torch.no_grad():
            fakes = criterion.discriminator(pictures(seed)[0]).mean()
            answers.append(torch.stack([criterion.discriminator(TARGETS).mean(), fakes]))
    assert criterion.steps == 0 and not criterion.anchors.any()
    criterion.end_step()
    assert criterion.steps == 1
    torch.testing.assert_close(criterion.anchors, (1 - ANCHOR_DECAY) * torch.stack(answers).mean(0))
    copy = make(lecam=0.1)
    copy.load_state_dict(criterion.state_dict())
    assert copy.steps == 1 and torch.equal(copy.anchors, criterion.anchors)


def test_lecam_keeps_answers_near_the_anchors() -> None:
    plain, tamed = make(), make(lecam=1.0)
    tamed.anchors.copy_(torch.tensor([5.0, -5.0]))
    assert judge(tamed)[0]["discriminator"] > judge(plain)[0]["discriminator"] + 20


def test_act_norm_begins_with_a_standard_normal_batch() -> None:
    norm = ActNorm(3).train()
    x = 5 + 3 * torch.randn(8, 3, 9, 9)
    y = norm(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(y.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(1), torch.ones(3), atol=1e-4, rtol=0)
    scale = norm.scale.clone()
    norm(2 * x)
    assert torch.equal(norm.scale, scale), "only the first batch counts"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (Shapes((16, 16), {"depth": 1, "picture": 3}), "task depth has 1: take it out of model.criteria"),
        (Shapes((8, 16), {"picture": 3}), "12 pixels or more"),
    ],
)
def test_what_it_cannot_judge_is_an_error_of_the_build(shapes: Shapes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adversarial(Adversarial.Config(layers=2), shapes)
