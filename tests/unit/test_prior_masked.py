"""The masked prior: what training masks, what a round accepts, what an edit keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure_plugins.encoders.label import LabelEncoder
from cynosure_plugins.priors.masked import Masked
from cynosure_plugins.priors.masking import MASK, mask_rate, masked_cross_entropy, random_mask, remask

SEEDS = torch.arange(5)
LABELS = {"label": torch.arange(5)}


def make(*segments: Segment, **options: Any) -> Masked:
    torch.manual_seed(0)
    shapes = Shapes((16, 16), {"a": 1, "b": 1}, CodeSpec(segments or (Segment("codes", 9, 1, 11),)), 4)
    prior = Masked(Masked.Config(dim=16, depth=2, heads=2, mlp_dim=32, **options), shapes, None)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior.eval()


def test_every_code_keeps_to_its_own_vocabulary() -> None:
    """Depths and segments of different sizes; a segment that is less deep has code 0 there."""
    prior = make(Segment("scene", 2, 1, 3), Segment("image", 3, 2, 9, sizes=(9, 4)))
    ids = prior.sample({}, "a", SampleSettings(temperature=9.0), torch.arange(300)).ids
    assert torch.equal(ids.amax(0), prior.spec.limits() - 1)
    assert prior.loss({}, Codes(ids, prior.spec), "a")["nll"].isfinite()


def test_classes_matter() -> None:
    prior = make(classes=5)
    logits = prior.predict(prior._prefix(LABELS, 5, "a"), torch.full((5, 9), MASK))
    assert (logits[1:] - logits[:-1]).abs().amax((1, 2)).min() > 1e-3, "two classes have the same model"
    ids = prior.sample(LABELS, "a", SampleSettings(), SEEDS).ids
    swapped = prior.sample({"label": LABELS["label"].flip(0)}, "a", SampleSettings(), SEEDS.flip(0)).ids
    assert torch.equal(ids.flip(0), swapped)


def test_classes_and_an_encoder_exclude_each_other() -> None:
    shapes = Shapes((16, 16), {"a": 1}, CodeSpec((Segment("codes", 9, 1, 11),)), 4)
    encoder = LabelEncoder(LabelEncoder.Config(classes=5, dim=8), shapes)
    with pytest.raises(ValueError, match="set classes: 0 or leave out the encoder"):
        Masked(Masked.Config(dim=16, depth=1, heads=2, mlp_dim=8, classes=5), shapes, encoder)


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_any_number_of_rounds_answers_every_code(steps: int) -> None:
    """Even with more rounds than codes, and where all codes are given but one."""
    prior = make()
    known = torch.randint(0, 11, (5, 9, 1))
    known[0], known[1, 4] = -1, -1
    ids = prior.sample({}, "a", SampleSettings(steps=steps, known=known), SEEDS).ids
    assert torch.equal(ids[known >= 0], known[known >= 0]) and (ids >= 0).all()


def test_steps_of_the_settings_come_before_those_of_the_recipe() -> None:
    prior, seeds = make(steps=1), SEEDS
    one = prior.sample({}, "a", SampleSettings(), seeds).ids
    assert torch.equal(one, prior.sample({}, "a", SampleSettings(steps=1), seeds).ids)
    assert not torch.equal(one, prior.sample({}, "a", SampleSettings(steps=6), seeds).ids)


def test_accepted_codes_never_change() -> None:
    torch.manual_seed(0)
    ids = torch.full((4, 30), MASK)
    initial = (ids == MASK).sum(1)
    for step in range(6):
        logits = torch.randn(4, 30, 7)
        accepted = ids != MASK
        before = ids
        answer, ids = remask(logits, ids, logits.argmax(-1), torch.randn(4, 30), initial, (step + 1) / 6, "cosine")
        assert torch.equal(answer[accepted], before[accepted]) and torch.equal(ids[accepted], before[accepted])
        wanted = max(1, int(30 * float(mask_rate("cosine", torch.tensor((step + 1) / 6), torch.tensor(30)))))
        assert ((ids == MASK).sum(1) == wanted).all(), "as many codes stay masked as the schedule says"


def test_training_masks_a_share_of_the_real_codes() -> None:
    torch.manual_seed(0)
    real = torch.arange(40) % 4 > 0
    masked = random_mask(real.expand(20_000, -1), "uniform")
    assert not masked[:, ~real].any() and masked.any(1).all()
    share = masked.float().mean(0)[real]
    assert torch.allclose(share, torch.full_like(share, 0.5), atol=0.02), "the mean of 1 - r, everywhere alike"


def test_loss_counts_masked_codes_only() -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 6, 5), torch.randint(0, 5, (2, 6))
    masked = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0]]).bool()
    nll = -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    wanted = ((nll[0, 0] + nll[0, 3]) / 2 + nll[1, 1]) / 2
    assert torch.allclose(masked_cross_entropy(logits, ids, masked, 0.0), wanted)


def test_what_is_known_decides_what_is_drawn() -> None:
    """Masked codes read the known ones, wherever these are."""
    prior = make(edit_start=0, steps=1)
    known = torch.full((5, 9, 1), -1)
    settings = [SampleSettings(temperature=0.0, known=known.index_fill(1, torch.tensor([8]), v)) for v in (0, 7)]
    logits = [prior.predict(prior._prefix({}, 5, "a"), s.known[..., 0]) for s in settings if s.known is not None]
    assert not torch.allclose(logits[0][:, 0], logits[1][:, 0])
    for each, wanted in zip(settings, logits, strict=True):
        assert torch.equal(prior.sample({}, "a", each, SEEDS).ids[:, :8, 0], wanted[:, :8, :11].argmax(-1))


def test_sampled_codes_can_be_trained_on() -> None:
    prior = make()
    codes = prior.sample({}, "a", SampleSettings(), SEEDS)
    prior.train().loss({}, codes, "a")["nll"].backward()
    assert prior.table.weight.grad is not None


@pytest.mark.parametrize("schedule", ["cos", "pow", "linear", "powx"])
def test_unknown_schedules_are_refused(schedule: str) -> None:
    with pytest.raises(ValidationError, match="schedule"):
        Masked.Config(schedule=schedule)


def test_neighbouring_codes_are_learnt() -> None:
    """Pictures whose rows are of one code each: with weights of 0.02 a narrow model only learns which codes there are
    (0.3 of neighbours were alike so), and without noise whole pictures are (0.4 of all rows were like the next)."""
    side, K = 4, 8
    torch.manual_seed(0)
    shapes = Shapes((16, 16), {"a": 1}, CodeSpec((Segment("codes", side * side, 1, K),)))
    prior = Masked(Masked.Config(dim=32, depth=2, heads=2, mlp_dim=64, dropout=0.0), shapes, None)
    optimizer = torch.optim.AdamW(prior.parameters(), 3e-3, betas=(0.9, 0.96))
    for _ in range(200):
        codes = Codes(torch.randint(K, (32, side, 1, 1)).expand(-1, -1, side, -1).reshape(32, -1, 1), prior.spec)
        loss = prior.loss({}, codes, "a")["nll"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures = prior.eval().sample({}, "a", SampleSettings(steps=8), torch.arange(200)).ids.view(-1, side, side)
    along = (pictures[:, :, 1:] == pictures[:, :, :-1]).float().mean()
    across = (pictures[:, 1:] == pictures[:, :-1]).float().mean()
    assert along > 0.85, f"{along:.2f} of the neighbours in a row are alike, not nearly all"
    assert across < 0.3, f"{across:.2f} of the rows are like the next, not 1 in {K}"


def test_noise_is_the_published_one_for_as_many_codes() -> None:
    """And in proportion to the range of confidences elsewhere; what the recipe says comes first."""
    noise = [make(Segment("codes", 4, 1, K)).choice_temperature for K in (1024, 32)]
    assert noise == pytest.approx([4.5, 2.25])
    assert make(choice_temperature=1.0).choice_temperature == 1.0
