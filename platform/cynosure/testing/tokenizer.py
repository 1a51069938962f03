"""Checks of tokenizers: from the answer to codes."""

from __future__ import annotations

from typing import Any

import torch

from cynosure.core.contracts import Tokenizer
from cynosure.testing.checks import Subject, check
from cynosure.testing.samples import (
    CHANNELS,
    ODD_SIZE,
    built_at_odd_size,
    inputs,
    loosen,
    one_row,
    require_gradients,
    require_same,
    require_state_round_trip,
    targets,
    without_codes,
)


def _build(subject: Subject, seed: int = 0) -> Tokenizer:
    torch.manual_seed(seed)
    quantizer = subject.part("quantizer")
    assert quantizer is not None, "say which quantizer in the options, such as {'quantizer': {'name': 'vq', 'dim': 8}}"
    return subject.build(without_codes(), quantizer, seed=seed)


@check("tokenizer")
def codes_match_the_spec(subject: Subject) -> None:
    tokenizer = _build(subject)
    for mode in (True, False):
        for task in CHANNELS:
            encoded = tokenizer.train(mode)(targets(task), inputs(), task)
            codes, spec = encoded.codes, tokenizer.spec
            assert codes.spec == spec, f"the codes of task {task} carry another spec than the tokenizer's"
            assert codes.ids.dtype == torch.int64, f"ids must be int64, not {codes.ids.dtype}"
            start = 0
            for segment in spec.segments:
                ids = codes.ids[:, start : start + segment.length, : segment.depth]
                inside = bool(((ids >= 0) & (ids < segment.vocab_size)).all())
                assert inside, f"ids of segment {segment.name} leave [0, {segment.vocab_size})"
                start += segment.length
            wanted = (len(codes.ids), tokenizer.code_positions, tokenizer.code_dim)
            got = tuple(encoded.vectors.shape)
            assert got == wanted, f"vectors must be [B, N, d] = {wanted}, not {got}"
            assert all(loss.ndim == 0 for loss in encoded.losses.values()), "losses must be scalars"


@check("tokenizer")
def grid_holds_the_last_segment(subject: Subject) -> None:
    spec = _build(subject).spec
    if spec.grid is not None:
        rows, columns = spec.grid
        length = spec.segments[-1].length
        assert rows * columns == length, f"grid {spec.grid} does not hold the {length} positions of the last segment"


@check("tokenizer")
def codes_lead_back_to_the_vectors(subject: Subject) -> None:
    tokenizer = _build(subject).eval()
    for task in CHANNELS:
        encoded = tokenizer(targets(task), inputs(), task)
        require_same(tokenizer.vectors(encoded.codes), encoded.vectors, "vectors(codes) differs from encode().vectors")


@check("tokenizer")
def gradient_reaches_every_parameter(subject: Subject) -> None:
    tokenizer = loosen(_build(subject)).train()
    loss = torch.zeros(())
    for task in CHANNELS:
        encoded = tokenizer(targets(task), inputs(), task)
        loss = loss + (encoded.vectors * torch.randn_like(encoded.vectors)).sum() + sum(encoded.losses.values())
    require_gradients(tokenizer, loss)


@check("tokenizer")
def codes_tell_targets_apart(subject: Subject) -> None:
    tokenizer = loosen(_build(subject)).eval()
    for task in CHANNELS:
        found = {
            tuple(tokenizer(targets(task, seed), inputs(), task).codes.ids.flatten().tolist()) for seed in range(4)
        }
        assert len(found) > 1, "different targets get the same codes; the tokenizer does not read its targets"


@check("tokenizer")
def evaluation_is_deterministic(subject: Subject) -> None:
    tokenizer = _build(subject).eval()
    for task in CHANNELS:
        first, second = (tokenizer(targets(task), inputs(), task).codes.ids for _ in range(2))
        assert torch.equal(first, second), "evaluation gives other codes the second time"


@check("tokenizer")
def rows_are_independent(subject: Subject) -> None:
    tokenizer = loosen(_build(subject)).eval()
    for task in CHANNELS:
        together = tokenizer(targets(task), inputs(), task).codes.ids
        alone = tokenizer(targets(task)[2:3], one_row(inputs(), 2), task).codes.ids
        assert torch.equal(together[2:3], alone), "a row's codes depend on the rows beside it"


@check("tokenizer")
def state_survives(subject: Subject) -> None:
    task = next(iter(CHANNELS))

    def use(tokenizer: Tokenizer) -> Any:
        encoded = tokenizer(targets(task), inputs(), task)
        return encoded.codes.ids, encoded.vectors

    def change(tokenizer: Tokenizer) -> None:
        loosen(tokenizer).train()(targets(task), inputs(), task)

    require_state_round_trip(lambda seed: _build(subject, seed), use, change)


@check("tokenizer")
def takes_or_refuses_odd_sizes(subject: Subject) -> None:
    tokenizer = built_at_odd_size(lambda of: subject.build(of, subject.part("quantizer")), without_codes())
    for task in CHANNELS if tokenizer is not None else ():
        encoded = tokenizer.eval()(targets(task, size=ODD_SIZE), inputs(size=ODD_SIZE), task)
        assert bool(encoded.vectors.isfinite().all()), f"the vectors of {ODD_SIZE} pixels are not finite"


@check("tokenizer")
def takes_a_batch_of_one(subject: Subject) -> None:
    tokenizer = _build(subject)
    for mode in (True, False):
        for task in CHANNELS:
            encoded = tokenizer.train(mode)(targets(task)[:1], one_row(inputs(), 0), task)
            assert bool(encoded.vectors.isfinite().all()), "a single row gives vectors that are not finite"


@check("tokenizer")
def works_under_autocast(subject: Subject) -> None:
    tokenizer = _build(subject)
    loosen(tokenizer).train()
    for task in CHANNELS:
        with torch.autocast("cpu", torch.bfloat16):
            encoded = tokenizer(targets(task), inputs(), task)
        assert encoded.vectors.dtype == torch.float32, f"vectors are {encoded.vectors.dtype} under autocast"
        assert bool(encoded.vectors.isfinite().all()), "vectors are not finite under bf16 autocast"
        again = tokenizer.vectors(encoded.codes)
        assert again.shape == encoded.vectors.shape, "the ids written under autocast are no codes"
