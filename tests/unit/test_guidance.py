"""Classifier-free guidance: every prior that drops its condition in training exaggerates it when it samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cynosure.core.contracts import Prior
from cynosure.core.guidance import ConditionDropout, guide
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure.errors import CynosureError, DataError
from cynosure_plugins.encoders.label import LabelEncoder
from cynosure_plugins.priors.autoregressive import Autoregressive
from cynosure_plugins.priors.gpt import GPT
from cynosure_plugins.priors.masked import Masked
from cynosure_plugins.priors.masking import MASK

SIZES = {"dim": 16, "depth": 2, "heads": 2, "mlp_dim": 32}
LABELS = {"label": torch.tensor([0, 3, 1])}
SEEDS = torch.arange(3)
IMAGE = (Segment("codes", 6, 1, 11),)
TWO = (Segment("scene", 2, 1, 3), Segment("image", 4, 2, 11))
PRIORS: tuple[Any, ...] = (Autoregressive, GPT, Masked)


def make(kind: Any, segments: tuple[Segment, ...] = IMAGE, condition_dropout: float = 0.5) -> Any:
    torch.manual_seed(0)
    shapes = Shapes((16, 16), {"a": 3}, CodeSpec(segments), 4)
    encoder = LabelEncoder(LabelEncoder.Config(classes=4, dim=8), shapes)
    prior = kind(kind.Config(**SIZES, condition_dropout=condition_dropout), shapes, encoder)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior.eval()


def null_logits(prior: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Teacher-forced logits of rows that training would have dropped."""
    part = prior.condition if isinstance(prior, Autoregressive) else prior.prefix.condition
    part.probability = 1.1
    part.train()
    logits = prior.logits(LABELS, tokens, "a")
    part.eval()
    return logits


@pytest.mark.parametrize("kind", [Autoregressive, GPT])
def test_codes_are_the_likeliest_of_guided_logits(kind: Any) -> None:
    prior = make(kind)
    codes = prior.sample(LABELS, "a", SampleSettings(temperature=0.0, guidance=3.0), SEEDS).ids.flatten(1)
    plain, null = prior.logits(LABELS, codes, "a"), null_logits(prior, codes)
    assert torch.equal((null + 3.0 * (plain - null)).argmax(-1), codes)
    assert not torch.equal(plain.argmax(-1), codes), "guidance changes nothing here, so this test would see no error"


def test_masked_codes_are_the_likeliest_of_guided_logits() -> None:
    prior = make(Masked)
    ids = torch.full((3, 6), MASK)
    plain = prior.predict(prior._prefix(LABELS, 3, "a"), ids)
    pair = prior._prefix(LABELS, 3, "a", 3.0)
    null = prior.predict(pair[3:], ids)
    assert not torch.allclose(plain, null), "rows without a condition know nothing of the label"
    assert torch.allclose(null[0], null[1], atol=1e-5), "rows without a condition are all alike"
    wanted = (null + 3.0 * (plain - null))[..., :11].argmax(-1)
    settings = SampleSettings(temperature=0.0, guidance=3.0, steps=1)
    assert torch.equal(prior.sample(LABELS, "a", settings, SEEDS).ids[..., 0], wanted)


@pytest.mark.parametrize("kind", PRIORS)
def test_guided_rows_do_not_depend_on_each_other(kind: Any) -> None:
    prior, settings = make(kind), SampleSettings(guidance=2.0)
    together = prior.sample(LABELS, "a", settings, SEEDS).ids
    alone = prior.sample({"label": LABELS["label"][1:2]}, "a", settings, SEEDS[1:2]).ids
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("kind", PRIORS)
def test_guided_codes_keep_to_their_vocabulary(kind: Any) -> None:
    """Two logits of minus infinity have no difference."""
    prior = make(kind, TWO)
    ids = prior.sample(LABELS, "a", SampleSettings(temperature=4.0, guidance=2.0), SEEDS).ids
    assert (ids < prior.spec.limits()).all() and ids[:, 2:].max() > 3
    assert prior.loss(LABELS, Codes(ids, prior.spec), "a")["nll"].isfinite()


@pytest.mark.parametrize("kind", PRIORS)
def test_guidance_needs_condition_dropout(kind: Any) -> None:
    prior: Prior = make(kind, condition_dropout=0.0)
    with pytest.raises(CynosureError, match="trained with condition_dropout"):
        prior.sample(LABELS, "a", SampleSettings(guidance=2.0), SEEDS)


@pytest.mark.parametrize("kind", PRIORS)
def test_condition_dropout_needs_a_condition(kind: Any) -> None:
    shapes = Shapes((16, 16), {"a": 3}, CodeSpec(IMAGE), 4)
    with pytest.raises(ValueError, match="condition_dropout drops what an encoder says"):
        kind(kind.Config(**SIZES, condition_dropout=0.1), shapes, None)
    with pytest.raises(CynosureError, match="trained with condition_dropout"):
        kind(kind.Config(**SIZES), shapes, None).sample({}, "a", SampleSettings(guidance=2.0), SEEDS)


def test_training_drops_whole_rows_and_evaluation_none() -> None:
    torch.manual_seed(0)
    part, context = ConditionDropout(4, 0.25), torch.randn(4000, 3, 4)
    assert torch.equal(part.eval()(context), context)
    dropped = (part.train()(context) == part.null).all(-1)
    assert torch.equal(dropped.any(1), dropped.all(1)), "a row keeps all of its context or none"
    assert dropped[:, 0].float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.manual_seed(1)
    first = part(context)
    torch.manual_seed(1)
    assert torch.equal(part(context), first), "torch's seed decides"


def test_scale_one_is_the_conditional_model_and_zero_the_other() -> None:
    both = torch.randn(4, 5)
    assert torch.equal(guide(both[:2], 1.0), both[:2])
    assert torch.equal(guide(both, 0.0), both[2:])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"label": torch.tensor([0, 4])}, "met label 4, but labels are 0 to 3"),
        ({"label": torch.tensor([-1, 0])}, "met label -1"),
        ({"image": torch.zeros(2)}, "no input 'label', only: image"),
    ],
)
def test_labels_out_of_range_are_refused(inputs: dict[str, torch.Tensor], said: str) -> None:
    encoder = LabelEncoder(LabelEncoder.Config(classes=4, dim=8), Shapes((16, 16), {"a": 3}))
    with pytest.raises(DataError, match=said):
        encoder(inputs, "a")
