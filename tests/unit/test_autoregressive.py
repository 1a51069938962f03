"""The autoregressive prior: cached sampling is the model that was trained, and codes keep to their vocabulary."""

from __future__ import annotations

import pytest
import torch

from cynosure.core.blocks import KVCache, SelfAttention
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure_plugins.priors.autoregressive import Autoregressive

CONFIG = Autoregressive.Config(dim=16, depth=2, heads=2, mlp_dim=32)


def make(*segments: Segment) -> Autoregressive:
    torch.manual_seed(0)
    prior = Autoregressive(CONFIG, Shapes((16, 16), {"a": 1, "b": 1}, CodeSpec(segments), 4), None)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior.eval()


@pytest.mark.parametrize("depth", [1, 3])
def test_greedy_samples_are_the_arg_max_of_teacher_forced_logits(depth: int) -> None:
    """A cache or a position that is off by one would sample from another model than the one that was trained."""
    prior = make(Segment("guide", 6, depth, 11))
    codes = prior.sample({}, "a", SampleSettings(temperature=0.0), torch.arange(3))
    logits = prior.logits({}, codes.ids.flatten(1), "a")
    assert torch.equal(logits.argmax(-1), codes.ids.flatten(1))


def test_tasks_have_priors_of_their_own() -> None:
    prior = make(Segment("guide", 6, 1, 11))
    tokens = torch.zeros(1, 6, dtype=torch.long)
    assert not torch.allclose(prior.logits({}, tokens, "a"), prior.logits({}, tokens, "b"))


def test_a_position_never_sees_a_later_one() -> None:
    prior = make(Segment("guide", 6, 1, 11))
    tokens = torch.randint(0, 11, (1, 6))
    changed = tokens.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 11
    before, after = prior.logits({}, tokens, "a"), prior.logits({}, changed, "a")
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6), "codes before the changed one must not notice"
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_segments_keep_to_their_own_vocabulary() -> None:
    """Make-A-Scene's scene codes and image codes differ in number; an id out of range has no codeword."""
    prior = make(Segment("scene", 5, 1, 3), Segment("image", 5, 1, 40))
    ids = prior.sample({}, "a", SampleSettings(temperature=5.0), torch.arange(200)).ids
    assert ids[:, :5].max() == 2 and ids[:, 5:].max() > 2
    loss = prior.loss({}, Codes(ids, prior.spec), "a")["nll"]
    assert loss.isfinite()


def test_a_filled_cache_refuses_several_tokens() -> None:
    """They would see each other's future."""
    attention = SelfAttention(8, 2)
    cache = KVCache.empty(1, 2, 8, 4, torch.zeros(1))
    attention(torch.zeros(1, 3, 8), causal=True, cache=cache)
    with pytest.raises(ValueError, match="one more at a time"):
        attention(torch.zeros(1, 2, 8), causal=True, cache=cache)
