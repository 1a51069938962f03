"""Checks of encoders: the context of a prior."""

from __future__ import annotations

from typing import Any

import torch

from cynosure.testing.checks import Subject, check
from cynosure.testing.samples import (
    CHANNELS,
    ODD_SIZE,
    ROWS,
    built_at_odd_size,
    inputs,
    loosen,
    one_row,
    require_gradients,
    require_same,
    require_state_round_trip,
    require_unchanged,
    shapes,
)


def _build(subject: Subject, seed: int = 0) -> Any:
    return subject.build(shapes(), seed=seed)


@check("encoder")
def context_is_a_sequence_of_vectors(subject: Subject) -> None:
    encoder = _build(subject)
    lengths = set()
    for task in CHANNELS:
        context = encoder(inputs(), task)
        assert context.ndim == 3, f"the context must be [B, N, d], not {list(context.shape)}"
        assert context.dtype == torch.float32, f"the context must be float32, not {context.dtype}"
        got, wanted = (context.shape[0], context.shape[2]), (ROWS, encoder.dim)
        assert got == wanted, f"the context must be [{ROWS}, N, {encoder.dim}], not {list(context.shape)}"
        lengths |= {context.shape[1], encoder(inputs(seed=1), task).shape[1]}
    assert len(lengths) == 1, f"the context must have one length N, not {sorted(lengths)}"


@check("encoder")
def inputs_matter(subject: Subject) -> None:
    encoder = loosen(_build(subject)).eval()
    for task in CHANNELS:
        change = (encoder(inputs(0), task) - encoder(inputs(1), task)).abs().max()
        assert float(change.detach()) > 1e-5, f"the context of task {task} ignores the inputs"


@check("encoder")
def what_is_given_stays_as_it_is(subject: Subject) -> None:
    encoder, given = loosen(_build(subject)), inputs()
    with require_unchanged(given):
        for mode in (True, False):
            for task in CHANNELS:
                encoder.train(mode)(given, task)


@check("encoder")
def gradient_reaches_every_parameter(subject: Subject) -> None:
    encoder = loosen(_build(subject)).train()
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        contexts = [encoder(inputs(), task) for task in CHANNELS]
        require_gradients(encoder, torch.stack([(x * torch.randn_like(x)).sum() for x in contexts]).sum())


@check("encoder")
def evaluation_is_deterministic(subject: Subject) -> None:
    encoder = _build(subject).eval()
    for task in CHANNELS:
        first, second = (encoder(inputs(), task) for _ in range(2))
        assert torch.equal(first, second), "evaluation gives another context the second time"


@check("encoder")
def rows_are_independent(subject: Subject) -> None:
    encoder = loosen(_build(subject)).eval()
    for task in CHANNELS:
        together, alone = encoder(inputs(), task)[2:3], encoder(one_row(inputs(), 2), task)
        require_same(together, alone, "a row's context depends on the rows beside it")


@check("encoder")
def state_survives(subject: Subject) -> None:
    def use(encoder: Any) -> Any:
        return [encoder(inputs(), task) for task in CHANNELS]

    require_state_round_trip(lambda seed: _build(subject, seed), use, loosen)


@check("encoder")
def takes_or_refuses_odd_sizes(subject: Subject) -> None:
    encoder = built_at_odd_size(subject.build, shapes())
    for task in CHANNELS if encoder is not None else ():
        context = encoder.eval()(inputs(size=ODD_SIZE), task)
        assert bool(context.isfinite().all()), f"the context of pictures of {ODD_SIZE} pixels is not finite"


@check("encoder")
def works_under_autocast(subject: Subject) -> None:
    encoder = loosen(_build(subject)).eval()
    for task in CHANNELS:
        with torch.autocast("cpu", torch.bfloat16):
            context = encoder(inputs(), task)
        assert bool(context.isfinite().all()), "the context is not finite under bf16 autocast"
