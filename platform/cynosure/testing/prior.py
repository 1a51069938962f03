"""Checks of what priors p(z | x) learn, on codes of four positions out of 16; how they sample: `sampling`.

A prior that fits one quantizer only names it, with options for four vectors of width 8 and 16 codes:
`TESTING = {"quantizer": {"name": "multiscale", "vocab_size": 16, "dim": 8, "scales": (1, 2)}}`.
Options that name no encoder get one that reads the picture; `"encoder": None` is a prior without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import log
from typing import Any

import torch

from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure.errors import CynosureError
from cynosure.testing.checks import Subject, check
from cynosure.testing.prior_parts import (
    GREEDY,
    SEEDS,
    attached,
    build,
    code_shapes,
    codes_of,
    has_encoder,
    loosened,
    loss_of,
    tells_tasks_apart,
)
from cynosure.testing.samples import (
    CHANNELS,
    ROWS,
    inputs,
    loosen,
    one_row,
    require_gradients,
    require_same,
    require_state_round_trip,
    require_unchanged,
    shapes,
    two_segments,
)
from cynosure.train.compute import recompute_blocks

STEPS, EVERY = 200, 10
"""How long a prior may take to learn one code a task, and how often it is asked; the built-in ones take 10 to 30."""


@check("prior")
def first_loss_is_that_of_guessing(subject: Subject) -> None:
    prior = build(subject)
    for task in CHANNELS:
        loss, guessing = float(loss_of(prior, task, code_shapes(subject)).detach()), log(16)
        assert abs(loss - guessing) < 1, f"an untrained prior must cost about log K = {guessing:.2f}, not {loss:.2f}"


@check("prior")
def gradient_reaches_every_parameter(subject: Subject) -> None:
    prior = loosened(subject).train()
    require_gradients(prior, torch.stack([loss_of(prior, task, code_shapes(subject)) for task in CHANNELS]).sum())


@check("prior")
def minimising_the_loss_teaches_the_codes(subject: Subject) -> None:
    prior, of = build(subject), code_shapes(subject)
    taught = _lessons(tells_tasks_apart(loosened(subject), of), of)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.01)
    found = 0.0
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        losses = [prior.train().loss(inputs(), codes, task) for task, codes in taught.items()]
        torch.stack([term for terms in losses for term in terms.values()]).sum().backward()
        optimizer.step()
        if step % EVERY == 0 and (found := _share(prior, taught)) > 0.9:
            return
    raise AssertionError(
        f"after {STEPS} steps on one code a task the likeliest codes are {found:.0%} those that were taught; the loss "
        "must be of the codes that it is given, and sample must write the codes of that task, each at its own position"
    )


def _lessons(apart: bool, of: Shapes) -> dict[str, Codes]:
    """One code for all rows, so that priors without a picture can know it; another for every task that has its own."""
    codes = [codes_of(of, seed=number if apart else 0) for number in range(len(CHANNELS))]
    return {task: replace(c, ids=c.ids[:1].repeat(ROWS, 1, 1)) for task, c in zip(CHANNELS, codes, strict=True)}


def _share(prior: Any, taught: Mapping[str, Codes]) -> float:
    """How many of the codes that are taught it writes at temperature 0."""
    prior.eval()
    right = [prior.sample(inputs(), task, GREEDY, SEEDS).ids == codes.ids for task, codes in taught.items()]
    return float(torch.stack(right).float().mean())


@check("prior")
def what_is_given_stays_as_it_is(subject: Subject) -> None:
    prior, of = loosened(subject), code_shapes(subject)
    given, codes, known = inputs(), codes_of(of), codes_of(of).ids
    known[:, ::2] = -1
    with require_unchanged({**given, "codes.ids": codes.ids, "settings.known": known, "seeds": SEEDS}):
        for task in CHANNELS:
            prior.train().loss(given, codes, task)
            prior.eval().loss(given, codes, task)
            prior.sample(given, task, SampleSettings(known=known), SEEDS)


@check("prior")
def training_mode_is_left_alone(subject: Subject) -> None:
    """A prior that samples and stays in evaluation mode trains without dropout from there on."""
    prior, of = loosened(subject), code_shapes(subject)
    for mode in (True, False):
        prior.train(mode)
        for task in CHANNELS:
            prior.loss(inputs(), codes_of(of), task)
            prior.sample(inputs(), task, SampleSettings(), SEEDS)
        changed = [name or "the prior" for name, module in prior.named_modules() if module.training != mode]
        assert not changed, f"training mode of {', '.join(changed[:3])} is another after loss and sample: set it back"


@check("prior")
def loss_reads_the_inputs(subject: Subject) -> None:
    prior, of = loosened(subject), code_shapes(subject)
    if has_encoder(prior):
        for task in CHANNELS:
            one, other = (float(loss_of(prior, task, of, seed).detach()) for seed in (0, 1))
            assert abs(one - other) > 1e-6, (
                f"the loss of task {task} ignores the inputs; read the encoder's context, or refuse an encoder"
            )


@check("prior")
def takes_or_refuses_several_segments(subject: Subject) -> None:
    of = two_segments()
    try:
        prior = build(subject, of=of)
    except (CynosureError, ValueError):
        return
    loosen(prior).eval()
    for task in CHANNELS:
        assert bool(loss_of(prior, task, of).isfinite()), "the loss of codes in two segments is not finite"
        ids = prior.sample(inputs(), task, SampleSettings(temperature=3.0), SEEDS).ids
        assert int(ids[:, :2].max()) < 4, f"ids {ids[:, :2].flatten().tolist()} leave the 4 codes of their segment"


@check("prior")
def takes_or_refuses_residual_codes(subject: Subject) -> None:
    of = shapes(depth=2)
    try:
        prior = build(subject, of=of).eval()
    except (CynosureError, ValueError):
        return
    for task in CHANNELS:
        assert bool(loss_of(prior, task, of).isfinite()), "the loss of codes with depth 2 is not finite"
        ids = prior.sample(inputs(), task, SampleSettings(), SEEDS).ids
        assert tuple(ids.shape) == (ROWS, 4, 2), f"codes of depth 2 must be [4, 4, 2], not {list(ids.shape)}"


@check("prior")
def works_or_refuses_without_encoder(subject: Subject) -> None:
    try:
        prior = attached(subject, subject.build(code_shapes(subject), None), code_shapes(subject)).eval()
    except (CynosureError, ValueError):
        return
    for task in CHANNELS:
        assert bool(loss_of(prior, task, code_shapes(subject)).isfinite()), "the unconditional loss is not finite"
        prior.sample(inputs(), task, SampleSettings(), SEEDS)


@check("prior")
def blocks_may_be_computed_again(subject: Subject) -> None:
    """As `train.recompute` has it: with the blocks of cynosure.core.blocks, or those derived from TransformerBlock."""
    plain, again = loosened(subject), loosened(subject)
    recompute_blocks(again)
    for task in CHANNELS:
        losses = [loss_of(prior, task, code_shapes(subject)) for prior in (plain, again)]
        require_same(losses[0], losses[1], "the loss changes where blocks are computed again in the backward pass")
        losses[1].backward()
        again.sample(inputs(), task, GREEDY, SEEDS)


@check("prior")
def state_survives(subject: Subject) -> None:
    def use(prior: Any) -> Any:
        return [loss_of(prior, task, code_shapes(subject)) for task in CHANNELS]

    require_state_round_trip(lambda seed: build(subject, seed), use, loosen)


@check("prior")
def codes_keep_to_the_vocabulary_of_their_depth(subject: Subject) -> None:
    usual, spec = shapes(depth=2), CodeSpec((Segment("codes", 4, 2, 16, (16, 3)),), grid=(2, 2))
    of = replace(usual, spec=spec)
    try:
        prior = build(subject, of=of)
    except (CynosureError, ValueError):
        return
    loosen(prior).eval()
    codes = Codes(codes_of(usual).ids % torch.tensor([16, 3]), spec)
    for task in CHANNELS:
        loss = torch.stack(list(prior.loss(inputs(), codes, task).values())).sum()
        assert bool(loss.isfinite()), "the loss of codes whose vocabulary depends on the depth is not finite"
        ids = prior.sample(inputs(), task, SampleSettings(temperature=3.0), SEEDS).ids
        assert int(ids[..., 1].max()) < 3, f"ids {ids[..., 1].flatten().tolist()} leave the 3 codes of their depth"


@check("prior")
def works_under_autocast(subject: Subject) -> None:
    prior, of = loosened(subject), code_shapes(subject)
    for task in CHANNELS:
        wanted = loss_of(prior, task, of)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(prior, task, of)
            ids = prior.sample(inputs(), task, SampleSettings(), SEEDS).ids
        require_same(loss.float(), wanted, "bf16 autocast changes the loss by more than its precision", 0.05)
        assert 0 <= int(ids.min()) and int(ids.max()) < 16, "samples under bf16 autocast leave [0, 16)"


@check("prior")
def takes_a_batch_of_one(subject: Subject) -> None:
    prior, of = loosened(subject).train(), code_shapes(subject)
    for task in CHANNELS:
        one = Codes(codes_of(of).ids[:1], codes_of(of).spec)
        loss = torch.stack(list(prior.loss(one_row(inputs(), 0), one, task).values())).sum()
        assert bool(loss.isfinite()), "the loss of a single row is not finite"
