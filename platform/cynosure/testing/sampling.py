"""Checks of how priors sample: seeds, known codes, and every setting, which is followed or refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from cynosure.core.decoding import check_settings
from cynosure.core.records import SampleSettings
from cynosure.errors import CynosureError
from cynosure.testing.checks import Subject, check
from cynosure.testing.prior_parts import (
    GREEDY,
    SEEDS,
    code_shapes,
    codes_of,
    has_encoder,
    loosened,
)
from cynosure.testing.samples import CHANNELS, ROWS, inputs, one_row


@check("prior")
def samples_match_the_spec(subject: Subject) -> None:
    prior = loosened(subject)
    for task in CHANNELS:
        codes = prior.sample(inputs(), task, SampleSettings(), SEEDS)
        assert codes.spec == code_shapes(subject).spec, (
            "samples carry another spec than the one the prior was built with"
        )
        assert codes.ids.dtype == torch.int64, f"ids must be int64, not {codes.ids.dtype}"
        low, high = int(codes.ids.min()), int(codes.ids.max())
        assert len(codes.ids) == ROWS, f"{ROWS} rows gave {len(codes.ids)} samples"
        assert 0 <= low and high < 16, f"ids {low}..{high} leave [0, 16)"


@check("prior")
def seeds_decide(subject: Subject) -> None:
    prior = loosened(subject)
    for task in CHANNELS:
        first, again, other = (prior.sample(inputs(), task, SampleSettings(), s).ids for s in (SEEDS, SEEDS, SEEDS + 1))
        assert torch.equal(first, again), "equal seeds give different codes; draw with row_uniforms(seeds, ...)"
        assert not torch.equal(first, other), "different seeds give equal codes"


@check("prior")
def rows_are_independent(subject: Subject) -> None:
    prior = loosened(subject)
    for task in CHANNELS:
        together = prior.sample(inputs(), task, SampleSettings(), SEEDS).ids[2:3]
        alone = prior.sample(one_row(inputs(), 2), task, SampleSettings(), SEEDS[2:3]).ids
        assert torch.equal(together, alone), "a row's codes depend on the rows beside it"


@check("prior")
def known_codes_are_kept(subject: Subject) -> None:
    prior = loosened(subject)
    known = codes_of(code_shapes(subject)).ids
    known[:, ::2] = -1
    for task in CHANNELS:
        ids = prior.sample(inputs(), task, SampleSettings(known=known), SEEDS).ids
        assert torch.equal(ids[known >= 0], known[known >= 0]), "codes given as settings.known were changed"
        assert bool((ids >= 0).all()), "-1 in settings.known must be replaced by a code"


@check("prior")
def temperature_zero_is_greedy(subject: Subject) -> None:
    prior = loosened(subject)
    for task in CHANNELS:
        first, other = (prior.sample(inputs(), task, GREEDY, seeds).ids for seeds in (SEEDS, SEEDS + 1))
        assert torch.equal(first, other), "temperature 0 must not depend on the seed"


@check("prior")
def greedy_samples_follow_the_logits(subject: Subject) -> None:
    """Of priors with `logits(inputs, tokens, task)`, teacher-forced [B, L*D, K]: caches must not change the model."""
    prior = loosened(subject)
    if callable(getattr(prior, "logits", None)):
        for task in CHANNELS:
            tokens = prior.sample(inputs(), task, GREEDY, SEEDS).ids.flatten(1)
            logits = prior.logits(inputs(), tokens, task).detach()
            lost = logits.max(-1).values - logits.gather(-1, tokens[..., None])[..., 0]
            position = int(lost.max(0).values.argmax())
            assert float(lost.max()) < 1e-4, f"at temperature 0 code {position} is not the likeliest after those before"


@check("prior")
def settings_are_followed_or_refused(subject: Subject) -> None:
    """One code left by `top_k`, `top_p` or a low temperature is the likeliest; in one round, if in rounds at all."""
    prior = loosened(subject)
    rounds = 1 if prior.takes_steps else None
    for settings, name in (
        (SampleSettings(top_k=1, steps=rounds), "top_k"),
        (SampleSettings(top_p=1e-6, steps=rounds), "top_p"),
        (SampleSettings(temperature=1e-5, steps=rounds), "temperature"),
    ):
        for task in CHANNELS:
            ids = _sampled(prior, task, settings, name, subject)
            greedy = prior.sample(inputs(), task, replace(GREEDY, steps=rounds), SEEDS).ids
            same = 1.0 if ids is None else float((ids == greedy).float().mean())
            told = f"{name} is not followed: where it leaves the likeliest code only, {same:.0%} of the codes are it"
            assert same > 0.9, f"{told}; use cynosure.core.decoding.draw, or refuse the setting"


@check("prior")
def guidance_is_followed_or_refused(subject: Subject) -> None:
    prior, option = loosened(subject), "condition_dropout"
    if has_encoder(prior) and option in subject.cls.Config.model_fields and option not in subject.options:
        prior = loosened(replace(subject, options={**subject.options, option: 0.5}))
    for task in CHANNELS:
        plain = prior.sample(inputs(), task, SampleSettings(), SEEDS).ids
        guided = _sampled(prior, task, SampleSettings(guidance=100.0), "guidance", subject)
        assert guided is None or not torch.equal(guided, plain), "guidance 100 changes no code; follow or refuse it"


def _sampled(prior: Any, task: str, settings: SampleSettings, name: str, subject: Subject) -> torch.Tensor | None:
    """The codes, or None where the setting is refused in a sentence that names it."""
    spec = code_shapes(subject).spec
    assert spec is not None
    try:
        check_settings(settings, prior, spec)
        ids: torch.Tensor = prior.sample(inputs(), task, settings, SEEDS).ids
    except (CynosureError, ValueError) as error:
        assert name in str(error), f"a prior that refuses {name} says so by name, not: {error}"
        return None
    return ids


@check("prior")
def samples_read_the_inputs(subject: Subject) -> None:
    prior = loosened(subject)
    if has_encoder(prior):
        for task in CHANNELS:
            differ = (
                not torch.equal(*(prior.sample(inputs(i), task, SampleSettings(), SEEDS + seed).ids for i in (0, 1)))
                for seed in range(16)
            )
            assert any(differ), f"samples of task {task} ignore the inputs"
