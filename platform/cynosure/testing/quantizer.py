"""Checks of quantizers: vectors to codes and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from cynosure.core.contracts import Quantizer
from cynosure.core.records import CodeSpec, Quantized
from cynosure.errors import CynosureError
from cynosure.testing.checks import Subject, check
from cynosure.testing.ranks import AVAILABLE, State, on_two_ranks
from cynosure.testing.samples import require_gradients, require_same, require_state_round_trip, require_unchanged

LARGER: Mapping[str, Callable[[Any], Any]] = {
    "vocab_size": lambda size: 2 * size,
    "sizes": lambda sizes: tuple(size + 1 for size in sizes),
}
"""Options that say how large a codebook is, and how to make it larger."""


def _vectors(quantizer: Quantizer, batch: int = 4, length: int = 6, seed: int = 0) -> torch.Tensor:
    shape = (batch, quantizer.positions or length, quantizer.dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _spec(quantizer: Quantizer, vectors: torch.Tensor) -> CodeSpec:
    return CodeSpec(quantizer.segments(vectors.shape[1]))


def _train(quantizer: Quantizer, seeds: Iterable[int] = range(3)) -> None:
    quantizer.train()
    for seed in seeds:
        torch.manual_seed(seed)  # quantizers may draw noise
        quantizer(_vectors(quantizer, seed=seed))
        quantizer.learn()


def _state(quantizer: Quantizer) -> State:
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def _changed(quantizer: Quantizer, before: State) -> str:
    """Names of what is not, bit for bit, as it was."""
    return ", ".join(name for name, value in quantizer.state_dict().items() if not torch.equal(value, before[name]))


def _total(quantized: Quantized) -> torch.Tensor:
    weights = torch.randn(quantized.vectors.shape, generator=torch.Generator().manual_seed(2))
    return (quantized.vectors * weights).sum() + sum(quantized.losses.values())


@check("quantizer")
def ids_are_codes(subject: Subject) -> None:
    quantizer = subject.build()
    for mode in (True, False):
        quantizer.train(mode)
        vectors = _vectors(quantizer)
        found = quantizer(vectors)
        assert found.vectors.shape == vectors.shape, f"vectors {list(vectors.shape)} became {list(found.vectors.shape)}"
        spec = _spec(quantizer, vectors)
        wanted = (len(vectors), spec.length, spec.depth)
        assert found.ids.shape == wanted, f"ids must be [B, L, D] = {list(wanted)}, not {list(found.ids.shape)}"
        assert found.ids.dtype == torch.int64, f"ids must be int64, not {found.ids.dtype}"
        inside = (found.ids >= 0) & (found.ids < spec.limits())
        low, high = int(found.ids.min()), int(found.ids.max())
        assert bool(inside.all()), f"ids {low}..{high} leave the vocabularies that `segments` tells"
        assert found.usage.shape == (quantizer.vocab_size,), "usage must be [K]"
        codes = len(vectors) * sum(segment.length * segment.depth for segment in spec.segments)
        assert int(found.usage.sum()) == codes, "usage must count every id of the batch once"
        assert all(loss.ndim == 0 for loss in found.losses.values()), "losses must be scalars"


@check("quantizer")
def what_is_given_stays_as_it_is(subject: Subject) -> None:
    quantizer = subject.build()
    vectors, ids = _vectors(quantizer), quantizer.eval()(_vectors(quantizer)).ids
    with require_unchanged({"vectors": vectors, "ids": ids}):
        quantizer.lookup(ids)
        for mode in (True, False):
            quantizer.train(mode)(vectors)


@check("quantizer")
def segments_agree_with_the_attributes(subject: Subject) -> None:
    quantizer = subject.build()
    spec = _spec(quantizer, _vectors(quantizer))
    told, own = (spec.vocab_size, spec.depth), (quantizer.vocab_size, quantizer.depth)
    assert told == own, f"`segments` tells K and D {told}, the quantizer's vocab_size and depth are {own}"


@check("quantizer")
def codes_in_use_are_told_one_by_one(subject: Subject) -> None:
    quantizer = subject.build()
    _train(quantizer)
    used = quantizer.eval().in_use()
    if used is not None:
        wanted = (quantizer.vocab_size,)
        assert used.dtype == torch.bool, f"`in_use` must be bool, not {used.dtype}"
        assert used.shape == wanted, f"`in_use` must be [K] = {list(wanted)}, not {list(used.shape)}"
        assert bool(used.any()), "no code is in use after training"


@check("quantizer")
def every_code_can_be_looked_up(subject: Subject) -> None:
    quantizer = subject.build().eval()
    vectors = _vectors(quantizer)
    limits = _spec(quantizer, vectors).limits()
    uniforms = torch.rand(len(vectors), *limits.shape, generator=torch.Generator().manual_seed(3))
    for ids in ((uniforms * limits).long(), torch.zeros_like(uniforms).long(), (limits - 1).expand(uniforms.shape)):
        found = quantizer.lookup(ids)
        assert found.shape == vectors.shape, f"lookup gives {list(found.shape)} for vectors {list(vectors.shape)}"
        assert found.dtype == torch.float32, f"lookup gives {found.dtype}, must be float32"
        assert bool(found.isfinite().all()), "a code that a prior may write has a vector that is not finite"


@check("quantizer")
def lookup_gives_the_vectors(subject: Subject) -> None:
    quantizer = subject.build().eval()
    found = quantizer(_vectors(quantizer))
    require_same(quantizer.lookup(found.ids), found.vectors, "lookup(ids) differs from the vectors that forward gives")


@check("quantizer")
def quantizing_twice_changes_nothing(subject: Subject) -> None:
    quantizer = subject.build().eval()
    if quantizer.depth > 1:
        return  # greedy residual codes of a sum need not be its parts
    once = quantizer(_vectors(quantizer))
    twice = quantizer(once.vectors)
    require_same(twice.vectors, once.vectors, "a codeword is not its own nearest codeword")


@check("quantizer")
def gradient_passes_straight_through(subject: Subject) -> None:
    quantizer = subject.build().train()
    vectors = _vectors(quantizer).requires_grad_()
    _total(quantizer(vectors)).backward()
    assert vectors.grad is not None and bool(vectors.grad.isfinite().all()), "no finite gradient reaches the vectors"
    silent = int((vectors.grad.abs().sum(-1) == 0).sum())
    assert silent == 0, f"{silent} vectors get no gradient; pass it straight through"


@check("quantizer")
def gradient_leads_to_other_codes(subject: Subject) -> None:
    """Vectors that follow the gradient of a distance to other quantized vectors come nearer to them."""
    quantizer = subject.build().train()
    wanted = quantizer(_vectors(quantizer, seed=1)).vectors.detach()
    vectors = _vectors(quantizer).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=0.3)
    distances = []
    for step in range(100):
        torch.manual_seed(step)
        found = quantizer(vectors).vectors
        assert found.requires_grad, "the quantized vectors carry no gradient; pass it straight through"
        distance = (found - wanted).square().mean()
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        distances.append(float(distance.detach()))
    before, after = sum(distances[:5]) / 5, sum(distances[-5:]) / 5
    told = (
        f"the distance of quantized vectors to others was {before:.3g} and is {after:.3g} after {len(distances)} steps"
    )
    assert after < 0.9 * before, f"{told}; pass the gradient on with its own sign"


@check("quantizer")
def code_vectors_make_up_what_lookup_gives(subject: Subject) -> None:
    quantizer = subject.build().eval()
    vectors = _vectors(quantizer)
    try:
        table = quantizer.code_vectors()
    except CynosureError:
        return
    limits = _spec(quantizer, vectors).limits()
    uniforms = torch.rand(len(vectors), *limits.shape, generator=torch.Generator().manual_seed(3))
    ids = (uniforms * limits).long()
    books = table.expand(quantizer.depth, -1, -1)
    made = torch.stack([book[ids[..., depth]] for depth, book in enumerate(books)]).sum(0)
    require_same(made, quantizer.lookup(ids), "the code_vectors of ids do not add up to what lookup gives for them")


@check("quantizer")
def parameters_learn(subject: Subject) -> None:
    quantizer = subject.build().train()
    if any(parameter.requires_grad for parameter in quantizer.parameters()):
        require_gradients(quantizer, _total(quantizer(_vectors(quantizer))))


@check("quantizer")
def evaluation_changes_nothing(subject: Subject) -> None:
    quantizer = subject.build().eval()
    before = _state(quantizer)
    first, second = quantizer(_vectors(quantizer)), quantizer(_vectors(quantizer))
    assert not (changed := _changed(quantizer, before)), f"evaluation changed {changed}"
    assert torch.equal(first.ids, second.ids), "evaluation gives other ids the second time"
    assert torch.equal(first.vectors, second.vectors), "evaluation gives other vectors the second time"


@check("quantizer")
def forward_leaves_learning_to_learn(subject: Subject) -> None:
    quantizer = subject.build().train()
    quantizer.learn()  # with nothing seen, nothing to learn
    before = _state(quantizer)
    quantizer(_vectors(quantizer))
    changed = _changed(quantizer, before)
    assert not changed, f"forward changed {changed}; change state in `learn`, once an optimizer step"


@check("quantizer")
def micro_batches_teach_what_one_batch_teaches(subject: Subject) -> None:
    whole, parts = subject.build().train(), subject.build().train()
    parts.load_state_dict(whole.state_dict())
    for seed in range(3):
        vectors = _vectors(whole, seed=seed)
        whole(vectors)
        for part in vectors.chunk(2):
            parts(part)
        whole.learn()
        parts.learn()
    state = parts.state_dict()
    for name, value in whole.state_dict().items():
        require_same(state[name].double(), value.double(), f"two halves of a batch give another {name} than the whole")


@check("quantizer")
def computes_in_full_precision(subject: Subject) -> None:
    low, high = subject.build(), subject.build()
    for mode in (False, True):
        vectors = _vectors(low.train(mode)).bfloat16()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            found = low(vectors)
        torch.manual_seed(0)
        wanted = high.train(mode)(vectors.float())
        assert found.vectors.dtype == torch.float32, f"vectors are {found.vectors.dtype} under autocast, not float32"
        assert torch.equal(found.ids, wanted.ids), "autocast changes the ids; compute distances in float32"
        with torch.autocast("cpu", torch.bfloat16):
            looked_up = low.lookup(wanted.ids)
        assert torch.equal(looked_up, high.lookup(wanted.ids)), "autocast changes what `lookup` returns; use float32"
    with torch.autocast("cpu", torch.bfloat16):
        low.learn()
    high.learn()
    assert not (changed := _changed(low, _state(high))), f"autocast changes what is learnt: {changed}"


@check("quantizer")
def refuses_nan(subject: Subject) -> None:
    for value in ("nan", "inf"):
        _refuses(subject, value)


def _refuses(subject: Subject, value: str) -> None:
    quantizer, spared = subject.build().train(), subject.build().train()
    before = _state(quantizer)
    vectors = _vectors(quantizer)
    vectors[0, 0, 0] = float(value)
    try:
        quantizer(vectors)
        quantizer(_vectors(quantizer))
        quantizer.learn()
    except CynosureError:
        changed = _changed(quantizer, before)
        assert not changed, f"{value} was refused only after it changed {changed}"
        for each in (quantizer, spared):
            _train(each)
        assert not (changed := _changed(quantizer, _state(spared))), f"a refused step is remembered in {changed}"
        return
    raise AssertionError(f"{value} was taken in training; raise TrainingError before any state changes")


@check("quantizer")
def nan_stays_nan_in_evaluation(subject: Subject) -> None:
    quantizer = subject.build().eval()
    vectors = _vectors(quantizer)
    vectors[0, 0] = float("nan")
    try:
        found = quantizer(vectors).vectors
    except CynosureError:
        return
    assert bool(found[0].isnan().any()), "NaN gets a codeword like any other vector: let its own vector be NaN"


@check("quantizer")
def ranks_stay_equal(subject: Subject) -> None:
    if _learns(subject):
        first, second = on_two_ranks(lambda rank: _as_rank(subject, rank))
        changed = ", ".join(name for name, value in first.items() if not torch.equal(value, second[name]))
        assert not changed, f"two ranks that saw other vectors have another {changed}; add up over ranks in `learn`"


@check("quantizer")
def ranks_learn_what_one_learns_from_all(subject: Subject) -> None:
    if alone := _learns(subject):
        first, _ = on_two_ranks(lambda rank: _as_rank(subject, rank))
        for name, value in alone.items():
            message = f"two ranks learn another {name} than one that sees the vectors of both"
            require_same(first[name].double(), value.double(), message)


def _learns(subject: Subject) -> State | None:
    """The state after some steps; None for a quantizer whose state no step changes, or where nothing can be forked."""
    quantizer = subject.build()
    before = _state(quantizer)
    _train(quantizer)
    return _state(quantizer) if AVAILABLE and _changed(quantizer, before) else None


def _as_rank(subject: Subject, rank: int) -> State:
    """The state after the same steps on one of two ranks, each of which sees half of a batch."""
    quantizer = subject.build().train()
    for seed in range(3):
        torch.manual_seed(seed)
        quantizer(_vectors(quantizer, seed=seed).chunk(2)[rank])
        quantizer.learn()
    return _state(quantizer)


@check("quantizer")
def a_resumed_run_learns_on(subject: Subject) -> None:
    """Moving averages, counts, the seeds of replacements: bit for bit what a run has that never stopped."""
    original, resumed = subject.build(), subject.build(seed=1)
    _train(original, range(2))
    resumed.load_state_dict(original.state_dict())
    for quantizer in (original, resumed):
        _train(quantizer, range(2, 5))
    changed = _changed(resumed, _state(original))
    assert not changed, f"a resumed run has another {changed} than one that never stopped; keep all state in buffers"


@check("quantizer")
def refuses_a_codebook_of_another_size(subject: Subject) -> None:
    quantizer = subject.build()
    option = next((name for name in LARGER if name in subject.options), None)
    if option is None or not quantizer.state_dict():
        return
    options = {**subject.options, option: LARGER[option](subject.options[option])}
    try:
        replace(subject, options=options).build().load_state_dict(quantizer.state_dict())
    except CynosureError as error:
        said = str(error)
        sizes = set(re.findall(r"\d+", said))
        assert option in said, f"the error for a codebook of another size does not name option {option}: {said}"
        assert len(sizes) > 1, f"the error for a codebook of another size does not name both sizes: {said}"
        return
    except RuntimeError as error:
        raise AssertionError(f"say in one sentence that a codebook has another size, not: {error}") from None
    raise AssertionError(f"the codebook of another {option} was taken")


@check("quantizer")
def state_survives(subject: Subject) -> None:
    def use(quantizer: Quantizer) -> Any:
        found = quantizer(_vectors(quantizer, seed=5))
        return found.vectors, found.ids

    require_state_round_trip(lambda seed: subject.build(seed=seed), use, _train)


@check("quantizer")
def takes_a_batch_of_one(subject: Subject) -> None:
    quantizer = subject.build()
    for mode in (True, False):
        found = quantizer.train(mode)(_vectors(quantizer, batch=1, length=1))
        assert bool(found.vectors.isfinite().all()), "a single vector gives vectors that are not finite"


@check("quantizer")
def learns_from_fewer_vectors_than_codes(subject: Subject) -> None:
    quantizer = subject.build()
    for seed in range(4):
        quantizer.train()(_vectors(quantizer, batch=1, length=1, seed=seed))
        quantizer.learn()
    bad = ", ".join(name for name, value in quantizer.state_dict().items() if not bool(value.isfinite().all()))
    assert not bad, f"after steps of one vector {bad} is not finite"
    found = quantizer.eval()(_vectors(quantizer))
    assert bool(found.vectors.isfinite().all()), "after steps of one vector the vectors are not finite"
