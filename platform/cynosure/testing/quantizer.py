"""Checks of quantizers: vectors to codes and back."""

from __future__ import annotations

from typing import Any

import torch

from cynosure.core.contracts import Quantizer
from cynosure.core.records import Quantized
from cynosure.errors import CynosureError
from cynosure.testing.checks import Subject, check
from cynosure.testing.samples import require_gradients, require_same, require_state_round_trip


def _vectors(quantizer: Quantizer, batch: int = 4, length: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, length, quantizer.dim, generator=torch.Generator().manual_seed(seed))


def _train(quantizer: Quantizer) -> None:
    quantizer.train()
    for seed in range(3):
        quantizer(_vectors(quantizer, seed=seed))


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
        wanted = (*vectors.shape[:2], quantizer.depth)
        assert found.ids.shape == wanted, f"ids must be [B, N, D] = {list(wanted)}, not {list(found.ids.shape)}"
        assert found.ids.dtype == torch.int64, f"ids must be int64, not {found.ids.dtype}"
        low, high = int(found.ids.min()), int(found.ids.max())
        assert 0 <= low and high < quantizer.vocab_size, f"ids {low}..{high} leave [0, {quantizer.vocab_size})"
        assert found.usage.shape == (quantizer.vocab_size,), "usage must be [K]"
        assert int(found.usage.sum()) == found.ids.numel(), "usage must count every id of the batch once"
        assert all(loss.ndim == 0 for loss in found.losses.values()), "losses must be scalars"


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
