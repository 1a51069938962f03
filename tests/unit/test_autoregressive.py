"""The autoregressive prior: cached sampling is the model that was trained, and codes keep to their vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cynosure.core.blocks import KVCache, SelfAttention
from cynosure.core.decoding import draw, row_uniforms
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure_plugins.encoders.vit import ViTEncoder
from cynosure_plugins.priors.autoregressive import Autoregressive

CONFIG = Autoregressive.Config(dim=16, depth=2, heads=2, mlp_dim=32)


def make(*segments: Segment, image: bool = False, **options: Any) -> Autoregressive:
    torch.manual_seed(0)
    shapes = Shapes((16, 16), {"a": 1, "b": 1}, CodeSpec(segments), 4)
    encoder = ViTEncoder(ViTEncoder.Config(patch=8, dim=8, depth=1, heads=1, mlp_dim=8), shapes) if image else None
    prior = Autoregressive(CONFIG.model_copy(update=options), shapes, encoder)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if prior.config.start_code:
            prior.head.bias[0] = -20.0  # no trained model predicts the start symbol
    return prior.eval()


@pytest.mark.parametrize("depth", [1, 3])
def test_greedy_samples_are_the_arg_max_of_teacher_forced_logits(depth: int) -> None:
    """A cache or a position that is off by one would sample from another model than the one that was trained."""
    prior = make(Segment("guide", 6, depth, 11))
    codes = prior.sample({}, "a", SampleSettings(temperature=0.0), torch.arange(3))
    logits = prior.logits({}, codes.ids.flatten(1), "a")
    assert torch.equal(logits.argmax(-1), codes.ids.flatten(1))


def test_drawn_samples_are_those_of_the_uncached_model() -> None:
    """Whatever makes sampling fast must not change a single code: not for drawn codes either, nor for any batch."""
    prior, settings, seeds = make(Segment("guide", 6, 1, 11)), SampleSettings(temperature=1.3, top_k=7), torch.arange(9)
    expected = torch.zeros(9, 6, dtype=torch.long)
    for i, uniforms in enumerate(row_uniforms(seeds, 6).unbind(1)):
        expected[:, i] = draw(prior.logits({}, expected, "b")[:, i], settings, uniforms)
    assert torch.equal(prior.sample({}, "b", settings, seeds).ids[..., 0], expected)


def test_sampled_codes_can_be_trained_on() -> None:
    """Sampling runs in inference mode, whose tensors the backward pass would refuse."""
    prior = make(Segment("guide", 6, 1, 11))
    codes = prior.sample({}, "a", SampleSettings(), torch.arange(2))
    prior.loss({}, codes, "a")["nll"].backward()
    assert prior.embedding.weight.grad is not None


def test_tasks_have_priors_of_their_own() -> None:
    prior = make(Segment("guide", 6, 1, 11))
    tokens = torch.zeros(1, 6, dtype=torch.long)
    assert not torch.allclose(prior.logits({}, tokens, "a"), prior.logits({}, tokens, "b"))


def test_a_task_that_is_added_leaves_what_the_first_has_learnt() -> None:
    """What tells tasks apart is there from the second on, and must begin as nothing."""
    segment, tokens = Segment("guide", 6, 1, 11), torch.randint(0, 11, (2, 6))
    one, two = (
        Autoregressive(CONFIG, Shapes((16, 16), dict.fromkeys(tasks, 1), CodeSpec((segment,)), 4), None).eval()
        for tasks in ("a", "ab")
    )
    missing, unexpected = two.load_state_dict(one.state_dict(), strict=False)
    assert not unexpected and all(name.startswith(("task_", "tasks.b", "starts.b")) for name in missing)
    assert torch.equal(one.logits({}, tokens, "a"), two.logits({}, tokens, "a"))


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


# --- the published vocabulary


def test_with_a_start_code_greedy_samples_are_still_the_arg_max() -> None:
    prior = make(Segment("guide", 6, 1, 11), start_code=True)
    ids = prior.sample({}, "a", SampleSettings(temperature=0.0), torch.arange(3)).ids.flatten(1)
    logits = prior.logits({}, ids + 1, "a")
    assert logits.shape == (3, 6, 12), "the vocabulary holds the start symbol too"
    assert torch.equal(logits.argmax(-1), ids + 1)


def test_codes_that_are_given_go_through_the_start_code_unchanged() -> None:
    prior = make(Segment("guide", 6, 1, 11), start_code=True)
    known = torch.tensor([[0, -1, 10, -1, 5, -1]])
    settings = SampleSettings(temperature=0.0, known=known[..., None])
    ids = prior.sample({}, "a", settings, torch.arange(1)).ids[..., 0]
    assert torch.equal(ids[known >= 0], known[known >= 0])
    likeliest = (prior.logits({}, ids + 1, "a").argmax(-1) - 1) % 11
    assert torch.equal(ids[known < 0], likeliest[known < 0]), "codes must follow from those that are given"


def test_a_drawn_start_symbol_stands_for_the_last_code() -> None:
    prior = make(Segment("guide", 4, 1, 11), start_code=True)
    with torch.no_grad():
        prior.head.bias[0] = 1e4
    ids = prior.sample({}, "a", SampleSettings(temperature=0.0), torch.arange(2)).ids
    assert (ids == 10).all()


def test_the_published_model_has_its_published_number_of_parameters() -> None:
    """Vit-L/16 and as large a decoder, 512 x 512 pixels, 256 of 4096 codes."""
    with torch.device("meta"):
        shapes = Shapes((512, 512), {"depth": 256}, CodeSpec((Segment("guide", 256, 1, 4096),), (16, 16)), 768)
        encoder = ViTEncoder(ViTEncoder.Config(), shapes)
        prior = Autoregressive(Autoregressive.Config(start_code=True, task_tokens=False), shapes, encoder)
    assert sum(p.numel() for p in prior.parameters()) == 715_729_921


def test_starts_alone_tell_tasks_apart() -> None:
    prior = make(Segment("guide", 6, 1, 11), image=True, task_tokens=False)
    inputs, tokens = {"image": torch.zeros(1, 3, 16, 16)}, torch.zeros(1, 6, dtype=torch.long)
    assert not torch.allclose(prior.logits(inputs, tokens, "a"), prior.logits(inputs, tokens, "b"))


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("could not tell the tasks apart", {"start_code": True, "task_tokens": False, "image": True}),
        ("nothing to attend to", {"task_tokens": False}),
    ],
)
def test_options_that_contradict_each_other_are_refused(said: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=said):
        make(Segment("guide", 6, 1, 11), **options)


@pytest.mark.parametrize("options", [{"start_code": True}, {"label_smoothing": 0.1}])
def test_segments_that_differ_refuse_what_needs_one_vocabulary(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="segments differ in vocabulary"):
        make(Segment("scene", 5, 1, 3), Segment("image", 5, 1, 40), **options)


def test_a_filled_cache_refuses_several_tokens() -> None:
    """They would see each other's future."""
    attention = SelfAttention(8, 2)
    cache = KVCache.empty(1, 2, 8, 4, torch.zeros(1))
    attention(torch.zeros(1, 3, 8), causal=True, cache=cache)
    with pytest.raises(ValueError, match="one more at a time"):
        attention(torch.zeros(1, 2, 8), causal=True, cache=cache)
