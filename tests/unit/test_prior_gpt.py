"""The gpt prior: a cache changes nothing, nothing sees the future, codes keep to their vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure_plugins.encoders.vit import ViTEncoder
from cynosure_plugins.priors.gpt import GPT

IMAGES = {"image": torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
SEEDS = torch.arange(3)
GREEDY = SampleSettings(temperature=0.0)


def make(*segments: Segment, image: bool = True, **options: Any) -> GPT:
    torch.manual_seed(0)
    shapes = Shapes((16, 16), {"a": 1, "b": 1}, CodeSpec(segments), 4)
    encoder = ViTEncoder(ViTEncoder.Config(patch=8, dim=8, depth=1, heads=1, mlp_dim=8), shapes) if image else None
    prior = GPT(GPT.Config(dim=16, depth=2, heads=2, mlp_dim=32, **options), shapes, encoder)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior.eval()


@pytest.mark.parametrize("two_way", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_greedy_samples_are_the_arg_max_of_teacher_forced_logits(two_way: bool, depth: int) -> None:
    prior = make(Segment("codes", 6, depth, 11), two_way_prefix=two_way)
    tokens = prior.sample(IMAGES, "a", GREEDY, SEEDS).ids.flatten(1)
    assert torch.equal(prior.logits(IMAGES, tokens, "a").argmax(-1), tokens)


def test_a_position_never_sees_a_later_one() -> None:
    prior = make(Segment("codes", 6, 1, 11), two_way_prefix=True)
    tokens = torch.randint(0, 11, (3, 6))
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 11
    before, after = prior.logits(IMAGES, tokens, "a"), prior.logits(IMAGES, changed, "a")
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6), "codes up to the changed one must not notice"
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_only_a_two_way_prefix_lets_its_vectors_see_later_ones() -> None:
    tokens = torch.zeros(3, 6, dtype=torch.long)
    one_way, two_way = (make(Segment("codes", 6, 1, 11), two_way_prefix=both) for both in (False, True))
    assert not torch.allclose(one_way.logits(IMAGES, tokens, "a"), two_way.logits(IMAGES, tokens, "a"))


def test_codes_follow_from_those_that_are_given() -> None:
    prior = make(Segment("codes", 6, 1, 11))
    known = torch.tensor([[0, -1, 10, -1, 5, -1]]).expand(3, -1)
    ids = prior.sample(IMAGES, "a", SampleSettings(temperature=0.0, known=known[..., None]), SEEDS).ids[..., 0]
    assert torch.equal(ids[known >= 0], known[known >= 0])
    assert torch.equal(ids[known < 0], prior.logits(IMAGES, ids, "a").argmax(-1)[known < 0])


def test_every_code_keeps_to_its_own_vocabulary() -> None:
    """Depths and segments of different sizes; a segment that is less deep has code 0 there."""
    prior = make(Segment("scene", 2, 1, 3), Segment("image", 3, 2, 9, sizes=(9, 4)), image=False)
    ids = prior.sample({}, "a", SampleSettings(temperature=9.0), torch.arange(200)).ids
    assert torch.equal(ids.amax(0), prior.spec.limits() - 1)
    assert prior.loss({}, Codes(ids, prior.spec), "a")["nll"].isfinite()


def test_random_codes_replace_input_codes_in_training_only() -> None:
    prior = make(Segment("scene", 500, 1, 3), Segment("image", 500, 1, 11), image=False, keep=0.7)
    tokens = torch.full((1, 1000), 0)
    assert torch.equal(prior._corrupt(tokens), tokens)
    changed = prior.train()._corrupt(tokens)
    assert changed[:, :500].max() == 2 and changed[:, 500:].max() == 10
    assert (changed[:, 500:] > 0).float().mean().item() == pytest.approx(0.3 * 10 / 11, abs=0.06)


def test_sampled_codes_can_be_trained_on() -> None:
    prior = make(Segment("codes", 6, 1, 11), dropout=0.1).train()
    codes = prior.eval().sample(IMAGES, "a", SampleSettings(), SEEDS)
    prior.train().loss(IMAGES, codes, "a")["nll"].backward()
    assert prior.embedding.weight.grad is not None


def test_tasks_have_priors_of_their_own() -> None:
    prior = make(Segment("codes", 6, 1, 11))
    tokens = torch.zeros(3, 6, dtype=torch.long)
    assert not torch.allclose(prior.logits(IMAGES, tokens, "a"), prior.logits(IMAGES, tokens, "b"))


def test_something_must_come_first() -> None:
    with pytest.raises(ValueError, match="nothing comes first"):
        make(Segment("codes", 6, 1, 11), image=False, task_tokens=False)
