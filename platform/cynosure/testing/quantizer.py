"""Checks of quantizers: vectors to codes and back."""

from __future__ import annotations

from typing import Any

import torch

from cynosure.core.contracts import Quantizer
from cynosure.core.records import CodeSpec, Quantized
from cynosure.errors import CynosureError
from cynosure.testing.checks import Subject, check
from cynosure.testing.samples import require_gradients, require_same, require_state_round_trip


def _vectors(quantizer: Quantizer, batch: int = 4, length: int = 6, seed: int = 0) -> torch.Tensor:
    shape = (batch, quantizer.positions or length, quantizer.dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _spec(quantizer: Quantizer, vectors: torch.Tensor) -> CodeSpec:
    return CodeSpec(quantizer.segments(vectors.shape[1]))


def _train(quantizer: Quantizer) -> None:
    quantizer.train()
    for seed in range(3):
        quantizer(_vectors(quantizer, seed=seed))
        quantizer.learn()


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
def segments_agree_with_the_attributes(subject: Subject) -> None:
    quantizer = subject.build()
    spec = _spec(quantizer, _vectors(quantizer))
    told, own = (spec.vocab_size, spec.depth), (quantizer.vocab_size, quantizer.depth)
    assert told == own, f"`segments` tells K and D {told}, the quantizer's vocab_size and depth are {own}"


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
def parameters_learn(subject: Subject) -> None:
    quantizer = subject.build().train()
    if any(parameter.requires_grad for parameter in quantizer.parameters()):
        require_gradients(quantizer, _total(quantizer(_vectors(quantizer))))


@check("quantizer")
def evaluation_changes_nothing(subject: Subject) -> None:
    quantizer = subject.build().eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    first, second = quantizer(_vectors(quantizer)), quantizer(_vectors(quantizer))
    changed = [name for name, value in quantizer.state_dict().items() if not torch.equal(value, before[name])]
    assert not changed, f"evaluation changed {', '.join(changed)}"
    assert torch.equal(first.ids, second.ids), "evaluation gives other ids the second time"
    assert torch.equal(first.vectors, second.vectors), "evaluation gives other vectors the second time"


@check("quantizer")
def forward_leaves_learning_to_learn(subject: Subject) -> None:
    quantizer = subject.build().train()
    quantizer.learn()  # with nothing seen, nothing to learn
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(_vectors(quantizer))
    changed = [name for name, value in quantizer.state_dict().items() if not torch.equal(value, before[name])]
    assert not changed, f"forward changed {', '.join(changed)}; change state in `learn`, once an optimizer step"


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
    quantizer = subject.build().eval()
    vectors = _vectors(quantizer).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        low = quantizer(vectors)
    high = quantizer(vectors.float())
    assert low.vectors.dtype == torch.float32, f"vectors are {low.vectors.dtype} under autocast, must be float32"
    assert torch.equal(low.ids, high.ids), "autocast changes the ids; compute distances in float32"


@check("quantizer")
def refuses_nan(subject: Subject) -> None:
    quantizer = subject.build().train()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    vectors = _vectors(quantizer)
    vectors[0, 0, 0] = float("nan")
    try:
        quantizer(vectors)
        quantizer.learn()
    except CynosureError:
        changed = [name for name, value in quantizer.state_dict().items() if not torch.equal(value, before[name])]
        assert not changed, f"NaN was refused only after it changed {', '.join(changed)}"
        return
    raise AssertionError("NaN was taken in training; raise TrainingError before any state changes")


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
