"""Checks of priors p(z | x), on codes of four positions out of 16.

A prior that fits one quantizer only names it, with options for four vectors of width 8 and 16 codes:
`TESTING = {"quantizer": {"name": "multiscale", "vocab_size": 16, "dim": 8, "scales": (1, 2)}}`.
"""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import torch

from cynosure.core.contracts import Quantizer
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure.errors import CynosureError
from cynosure.testing.checks import Subject, check
from cynosure.testing.samples import (
    CHANNELS,
    ROWS,
    Oracle,
    inputs,
    loosen,
    one_row,
    require_gradients,
    require_same,
    require_state_round_trip,
    shapes,
    two_segments,
)
from cynosure.train.compute import recompute_blocks

SEEDS = torch.tensor([3, 14, 15, 92])
GREEDY = SampleSettings(temperature=0.0)


def _quantizer(subject: Subject) -> Quantizer | None:
    """What the prior's TESTING names, with the same random codewords every time."""
    options = getattr(subject.cls, "TESTING", {}).get("quantizer")
    if options is None:
        return None
    torch.manual_seed(0)
    quantizer: Quantizer = subject.host.components.build("quantizer", options)
    loosen(quantizer)
    return quantizer.eval()


def _shapes(subject: Subject) -> Shapes:
    usual, quantizer = shapes(), _quantizer(subject)
    if quantizer is None or usual.spec is None:
        return usual
    return replace(usual, spec=CodeSpec(quantizer.segments(4), usual.spec.grid))


def _build(subject: Subject, seed: int = 0, of: Shapes | None = None) -> Any:
    of = of or _shapes(subject)
    torch.manual_seed(seed)
    return _attached(subject, subject.build(of, subject.part("encoder", of), seed=seed), of)


def _attached(subject: Subject, prior: Any, of: Shapes) -> Any:
    prior.attach(Oracle(of, _quantizer(subject)))
    return prior


def _loosened(subject: Subject) -> Any:
    prior = _build(subject)
    loosen(prior)
    return prior.eval()


def _codes(of: Shapes) -> Codes:
    assert of.spec is not None
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randint(s.vocab_size, (ROWS, s.length, of.spec.depth), generator=generator) for s in of.spec.segments
    ]
    return Codes(torch.cat(parts, dim=1), of.spec)


def _loss(prior: Any, task: str, of: Shapes, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(0)  # a masked prior draws its masks
    return torch.stack(list(prior.loss(inputs(seed), _codes(of), task).values())).sum()


@check("prior")
def first_loss_is_that_of_guessing(subject: Subject) -> None:
    prior = _build(subject)
    for task in CHANNELS:
        loss, guessing = float(_loss(prior, task, _shapes(subject)).detach()), log(16)
        assert abs(loss - guessing) < 1, f"an untrained prior must cost about log K = {guessing:.2f}, not {loss:.2f}"


@check("prior")
def gradient_reaches_every_parameter(subject: Subject) -> None:
    prior = _loosened(subject).train()
    require_gradients(prior, torch.stack([_loss(prior, task, _shapes(subject)) for task in CHANNELS]).sum())


@check("prior")
def loss_reads_the_inputs(subject: Subject) -> None:
    prior = _loosened(subject)
    if subject.options.get("encoder") is not None:
        for task in CHANNELS:
            change = (_loss(prior, task, _shapes(subject), 0) - _loss(prior, task, _shapes(subject), 1)).detach().abs()
            assert float(change) > 1e-6, f"the loss of task {task} ignores the inputs"


@check("prior")
def samples_match_the_spec(subject: Subject) -> None:
    prior = _loosened(subject)
    for task in CHANNELS:
        codes = prior.sample(inputs(), task, SampleSettings(), SEEDS)
        assert codes.spec == _shapes(subject).spec, "samples carry another spec than the one the prior was built with"
        assert codes.ids.dtype == torch.int64, f"ids must be int64, not {codes.ids.dtype}"
        low, high = int(codes.ids.min()), int(codes.ids.max())
        assert len(codes.ids) == ROWS, f"{ROWS} rows gave {len(codes.ids)} samples"
        assert 0 <= low and high < 16, f"ids {low}..{high} leave [0, 16)"


@check("prior")
def seeds_decide(subject: Subject) -> None:
    prior = _loosened(subject)
    for task in CHANNELS:
        first, again, other = (prior.sample(inputs(), task, SampleSettings(), s).ids for s in (SEEDS, SEEDS, SEEDS + 1))
        assert torch.equal(first, again), "equal seeds give different codes; draw with row_uniforms(seeds, ...)"
        assert not torch.equal(first, other), "different seeds give equal codes"


@check("prior")
def rows_are_independent(subject: Subject) -> None:
    prior = _loosened(subject)
    for task in CHANNELS:
        together = prior.sample(inputs(), task, SampleSettings(), SEEDS).ids[2:3]
        alone = prior.sample(one_row(inputs(), 2), task, SampleSettings(), SEEDS[2:3]).ids
        assert torch.equal(together, alone), "a row's codes depend on the rows beside it"


@check("prior")
def known_codes_are_kept(subject: Subject) -> None:
    prior = _loosened(subject)
    known = _codes(_shapes(subject)).ids
    known[:, ::2] = -1
    for task in CHANNELS:
        ids = prior.sample(inputs(), task, SampleSettings(known=known), SEEDS).ids
        assert torch.equal(ids[known >= 0], known[known >= 0]), "codes given as settings.known were changed"
        assert bool((ids >= 0).all()), "-1 in settings.known must be replaced by a code"


@check("prior")
def temperature_zero_is_greedy(subject: Subject) -> None:
    prior = _loosened(subject)
    for task in CHANNELS:
        first, other = (prior.sample(inputs(), task, GREEDY, seeds).ids for seeds in (SEEDS, SEEDS + 1))
        assert torch.equal(first, other), "temperature 0 must not depend on the seed"


@check("prior")
def greedy_samples_follow_the_logits(subject: Subject) -> None:
    """Of priors with `logits(inputs, tokens, task)`, teacher-forced [B, L*D, K]: caches must not change the model."""
    prior = _loosened(subject)
    if callable(getattr(prior, "logits", None)):
        for task in CHANNELS:
            tokens = prior.sample(inputs(), task, GREEDY, SEEDS).ids.flatten(1)
            logits = prior.logits(inputs(), tokens, task).detach()
            lost = logits.max(-1).values - logits.gather(-1, tokens[..., None])[..., 0]
            position = int(lost.max(0).values.argmax())
            assert float(lost.max()) < 1e-4, f"at temperature 0 code {position} is not the likeliest after those before"


@check("prior")
def takes_or_refuses_several_segments(subject: Subject) -> None:
    of = two_segments()
    try:
        prior = _build(subject, of=of)
    except (CynosureError, ValueError):
        return
    loosen(prior).eval()
    for task in CHANNELS:
        assert bool(_loss(prior, task, of).isfinite()), "the loss of codes in two segments is not finite"
        ids = prior.sample(inputs(), task, SampleSettings(temperature=3.0), SEEDS).ids
        assert int(ids[:, :2].max()) < 4, f"ids {ids[:, :2].flatten().tolist()} leave the 4 codes of their segment"


@check("prior")
def takes_or_refuses_residual_codes(subject: Subject) -> None:
    of = shapes(depth=2)
    try:
        prior = _build(subject, of=of).eval()
    except (CynosureError, ValueError):
        return
    for task in CHANNELS:
        assert bool(_loss(prior, task, of).isfinite()), "the loss of codes with depth 2 is not finite"
        ids = prior.sample(inputs(), task, SampleSettings(), SEEDS).ids
        assert tuple(ids.shape) == (ROWS, 4, 2), f"codes of depth 2 must be [4, 4, 2], not {list(ids.shape)}"


@check("prior")
def works_or_refuses_without_encoder(subject: Subject) -> None:
    try:
        prior = _attached(subject, subject.build(_shapes(subject), None), _shapes(subject)).eval()
    except (CynosureError, ValueError):
        return
    for task in CHANNELS:
        assert bool(_loss(prior, task, _shapes(subject)).isfinite()), "the unconditional loss is not finite"
        prior.sample(inputs(), task, SampleSettings(), SEEDS)


@check("prior")
def blocks_may_be_computed_again(subject: Subject) -> None:
    """As `train.recompute` has it: with the blocks of cynosure.core.blocks, or those derived from TransformerBlock."""
    plain, again = _loosened(subject), _loosened(subject)
    recompute_blocks(again)
    for task in CHANNELS:
        losses = [_loss(prior, task, _shapes(subject)) for prior in (plain, again)]
        require_same(losses[0], losses[1], "the loss changes where blocks are computed again in the backward pass")
        losses[1].backward()
        again.sample(inputs(), task, GREEDY, SEEDS)


@check("prior")
def state_survives(subject: Subject) -> None:
    def use(prior: Any) -> Any:
        return [_loss(prior, task, _shapes(subject)) for task in CHANNELS]

    require_state_round_trip(lambda seed: _build(subject, seed), use, loosen)


@check("prior")
def codes_keep_to_the_vocabulary_of_their_depth(subject: Subject) -> None:
    usual, spec = shapes(depth=2), CodeSpec((Segment("codes", 4, 2, 16, (16, 3)),), grid=(2, 2))
    of = replace(usual, spec=spec)
    try:
        prior = _build(subject, of=of)
    except (CynosureError, ValueError):
        return
    loosen(prior).eval()
    codes = Codes(_codes(usual).ids % torch.tensor([16, 3]), spec)
    for task in CHANNELS:
        loss = torch.stack(list(prior.loss(inputs(), codes, task).values())).sum()
        assert bool(loss.isfinite()), "the loss of codes whose vocabulary depends on the depth is not finite"
        ids = prior.sample(inputs(), task, SampleSettings(temperature=3.0), SEEDS).ids
        assert int(ids[..., 1].max()) < 3, f"ids {ids[..., 1].flatten().tolist()} leave the 3 codes of their depth"


@check("prior")
def works_under_autocast(subject: Subject) -> None:
    prior, of = _loosened(subject), _shapes(subject)
    for task in CHANNELS:
        wanted = _loss(prior, task, of)
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(prior, task, of)
            ids = prior.sample(inputs(), task, SampleSettings(), SEEDS).ids
        require_same(loss.float(), wanted, "bf16 autocast changes the loss by more than its precision", 0.05)
        assert 0 <= int(ids.min()) and int(ids.max()) < 16, "samples under bf16 autocast leave [0, 16)"


@check("prior")
def takes_a_batch_of_one(subject: Subject) -> None:
    prior, of = _loosened(subject).train(), _shapes(subject)
    for task in CHANNELS:
        one = Codes(_codes(of).ids[:1], _codes(of).spec)
        loss = torch.stack(list(prior.loss(one_row(inputs(), 0), one, task).values())).sum()
        assert bool(loss.isfinite()), "the loss of a single row is not finite"
