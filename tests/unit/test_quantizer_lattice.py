"""fsq, lfq and bsq: exact ids without a codebook."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cynosure.core.records import CodeSpec
from cynosure.errors import CynosureError, TrainingError
from cynosure_plugins.quantizers.bsq import BinarySphericalQuantizer
from cynosure_plugins.quantizers.entropy import bit_entropy
from cynosure_plugins.quantizers.fsq import FiniteScalarQuantizer
from cynosure_plugins.quantizers.lfq import LookupFreeQuantizer


def fsq(*levels: int, **options: Any) -> FiniteScalarQuantizer:
    return FiniteScalarQuantizer(FiniteScalarQuantizer.Config(levels=levels, **options))


def lfq(**options: Any) -> LookupFreeQuantizer:
    return LookupFreeQuantizer(LookupFreeQuantizer.Config(**options))


def bsq(**options: Any) -> BinarySphericalQuantizer:
    return BinarySphericalQuantizer(BinarySphericalQuantizer.Config(**options))


def every_code(part: FiniteScalarQuantizer) -> torch.Tensor:
    """All ids of one group, [1, K, 1]."""
    return torch.arange(part.vocab_size)[None, :, None]


@pytest.mark.parametrize("levels", [(8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 5, 5, 5), (2, 3, 4, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_code_of_fsq_can_be_written_and_read(levels: tuple[int, ...], dtype: torch.dtype) -> None:
    """Also by an encoder that computes in bfloat16, which cannot count beyond 256."""
    part = fsq(*levels).eval()
    ids = every_code(part)
    assert part.vocab_size == math.prod(levels)
    values = part.lookup(ids)
    assert len(values[0].unique(dim=0)) == part.vocab_size
    if dtype == torch.bfloat16 and max(levels) > 16:
        return  # neighbouring levels are closer than bfloat16's numbers near the outermost ones
    level = torch.tensor(levels)
    reach, offset = (level - 1) * 1.001 / 2, (level % 2 == 0) / 2
    inputs = torch.atanh((values * (level // 2) + offset) / reach) - torch.atanh(offset / reach)
    out = part(inputs.to(dtype))
    assert torch.equal(out.ids, ids)
    assert torch.equal(out.vectors, values)
    assert torch.equal(out.usage, torch.ones_like(out.usage))


def test_fsq_counts_the_first_dimension_least() -> None:
    """The order of saved codes: id = digit_0 + L_0 · digit_1 + L_0 · L_1 · digit_2."""
    part = fsq(4, 3, 5)
    values = part.lookup(torch.arange(60)[None, :, None])[0]
    wanted = [(a, b, c) for c, b, a in itertools.product([-1, -0.5, 0, 0.5, 1], [-1, 0, 1], [-1, -0.5, 0, 0.5])]
    assert torch.equal(values, torch.tensor(wanted))


def test_fsq_keeps_zero_and_rounds_to_the_outermost_levels() -> None:
    part = fsq(8, 5, 2)
    inputs = torch.tensor([[[0.0, 0, 0], [50, 50, 50], [-50, -50, -50]]])
    wanted = torch.tensor([[[0.0, 0, 0], [0.75, 1, 0], [-1, -1, -1]]])
    assert torch.equal(part(inputs).vectors, wanted)


def test_groups_give_several_smaller_codes() -> None:
    part = fsq(8, 8, 5, 5, 4, groups=2)
    segment = part.segments(6)[0]
    assert (segment.depth, segment.vocab_size, segment.limits) == (2, 320, (320, 20))
    assert torch.equal(CodeSpec((segment,)).limits(), torch.tensor([[320, 20]] * 6))
    out = part.eval()(torch.randn(3, 6, 5))
    assert out.ids.shape == (3, 6, 2)
    assert torch.equal(part.lookup(out.ids), out.vectors)
    assert lfq(bits=18, groups=2).segments(1)[0].limits == (512, 512)


def test_a_vocabulary_that_no_prior_could_model_is_refused() -> None:
    with pytest.raises(CynosureError, match="raise `groups`"):
        fsq(*[4] * 16)
    assert fsq(*[4] * 16, groups=2).vocab_size == 65536
    with pytest.raises(CynosureError, match="lower `groups`"):
        lfq(bits=3, groups=4)
    with pytest.raises(ValidationError):
        fsq(8, 1)


@pytest.mark.parametrize("make", [lfq, bsq])
def test_ids_of_signs_are_exact_at_two_to_the_eighteen(make: Any) -> None:
    part = make(bits=18, entropy=0).eval()
    ids = torch.arange(1 << 18)[None, :, None]
    values = part.lookup(ids)
    out = part(3 * values.bfloat16())
    assert torch.equal(out.ids, ids) and torch.equal(out.vectors, values)
    assert values[0, 1, 0] > 0 and (values[0, 1, 1:] < 0).all(), "the first bit counts least"


def test_codewords_of_bsq_lie_on_the_unit_sphere() -> None:
    out = bsq(bits=36, groups=4).eval()(5 * torch.randn(2, 7, 36))
    torch.testing.assert_close(out.vectors.norm(dim=-1), torch.ones(2, 7))


@pytest.mark.parametrize("size", [1.0, 0.5])
def test_the_entropy_of_bits_is_that_of_all_codes(size: float) -> None:
    """Of one vector exactly; of the batch too when all bits are looked at together."""
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    words = size * torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)))
    p = torch.softmax(-torch.cdist(x, words).square() / 2.0, dim=-1)
    single, whole = torch.special.entr(p).sum(-1).mean(), torch.special.entr(p.mean(0)).sum()
    logits = 4 * size / 2.0 * x
    torch.testing.assert_close(bit_entropy(logits, 0.0, 1), single)
    torch.testing.assert_close(bit_entropy(logits, 1.0, 6), single - whole)
    assert bit_entropy(logits, 1.0, 1) <= bit_entropy(logits, 1.0, 3) <= single - whole + 1e-5, "bounds grow tighter"


@pytest.mark.parametrize("make", [lfq, bsq])
@pytest.mark.parametrize("joint_bits", [1, 4])
def test_the_entropy_loss_brings_dead_bits_back(make: Any, joint_bits: int) -> None:
    """From vectors that all have the same signs, its gradient alone leads to bits, or codes, that are all in use."""
    part = make(bits=4, entropy=1.0, commitment=0.0, joint_bits=joint_bits, temperature=0.5).train()
    torch.manual_seed(0)
    x = (torch.rand(1, 256, 4) + 0.1).requires_grad_()
    assert (part(x).usage > 0).sum() == 1
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        part(x).losses["entropy"].backward()
        optimizer.step()
    out = part(x)
    shares = (out.vectors > 0).float().mean(dim=(0, 1))
    assert (shares - 0.5).abs().max() < 0.3, f"shares of ones: {shares.tolist()}"
    assert joint_bits == 1 or (out.usage > 0).all(), out.usage.tolist()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", [fsq(8, 5, 5), lfq(bits=6), bsq(bits=6)])
def test_vectors_that_are_not_finite_stop_the_step(part: Any, value: float) -> None:
    part.train()(torch.full((1, 2, part.dim), value))
    with pytest.raises(TrainingError, match="not finite"):
        part.learn()
    part(torch.randn(1, 2, part.dim))
    part.learn()


def test_a_wrong_width_is_said_in_one_sentence() -> None:
    with pytest.raises(CynosureError, match="width 4, not 5"):
        fsq(8, 5, 5, 5)(torch.zeros(1, 2, 5))
