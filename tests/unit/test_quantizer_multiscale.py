"""The multiscale quantizer: code grids that grow, and what a next-scale prior reads from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from cynosure.errors import CheckpointError, CynosureError
from cynosure_plugins.quantizers.multiscale import MultiscaleQuantizer


def multiscale(**options: Any) -> MultiscaleQuantizer:
    torch.manual_seed(0)
    config = MultiscaleQuantizer.Config(**{"vocab_size": 32, "dim": 4, "scales": (1, 2, 4), **options})
    return MultiscaleQuantizer(config)


def smooth_fields(seed: int, batch: int = 16, side: int = 4) -> torch.Tensor:
    """Vectors [B, side², 4] that vary slowly over their grid, as pictures do."""
    coarse = torch.randn(batch, 4, 2, 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(side, side), mode="bilinear").flatten(2).transpose(1, 2)


def trained(steps: int = 300, **options: Any) -> MultiscaleQuantizer:
    part = multiscale(**options).train()
    optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
    for seed in range(steps):
        optimizer.zero_grad()
        sum(part(smooth_fields(seed)).losses.values(), torch.zeros(())).backward()
        optimizer.step()
        part.learn()
    return part.eval()


@pytest.mark.parametrize("options", [{}, {"update": "ema", "replace": "restart"}, {"convolutions": 0}])
def test_training_brings_the_sum_closer_with_every_scale(options: dict[str, Any]) -> None:
    part, x = trained(**options), smooth_fields(999)
    out = part(x)
    target = x.transpose(1, 2).unflatten(2, (4, 4))
    errors = [float((target - total.detach()).square().mean()) for total in part._sums(out.ids, 3)]
    assert errors[0] > errors[1] > errors[2] > errors[3], errors
    assert errors[3] < 0.3 * errors[0]
    assert (out.usage > 0).float().mean() > 0.5


def test_codes_are_ordered_by_scale() -> None:
    part = multiscale()
    segments = part.segments(16)
    assert [(s.name, s.length, s.depth, s.vocab_size) for s in segments] == [
        ("1x1", 1, 1, 32),
        ("2x2", 4, 1, 32),
        ("4x4", 16, 1, 32),
    ]
    out = part(smooth_fields(0))
    assert out.ids.shape == (16, 21, 1) and out.vectors.shape == (16, 16, 4)


def test_partial_is_what_coarser_scales_say() -> None:
    part, x = trained(50), smooth_fields(9)
    out = part(x)
    assert torch.equal(part.partial(out.ids, 0), torch.zeros(16, 1, 4)), "nothing is known before the first code"
    target = x.transpose(1, 2).unflatten(2, (4, 4))
    whole = torch.zeros_like(target)
    start = 0
    for number, side in enumerate((1, 2, 4)):
        wanted = F.interpolate(whole, size=(side, side), mode="area").flatten(2).transpose(1, 2)
        torch.testing.assert_close(part.partial(out.ids, number), wanted)
        torch.testing.assert_close(part.partial(out.ids[:, :start], number), wanted, msg="later codes do not matter")
        codes = part.codewords[out.ids[:, start : start + side**2, 0]].transpose(1, 2).unflatten(2, (side, side))
        up = codes if side == 4 else F.interpolate(codes, size=(4, 4), mode="bicubic")
        whole = whole + 0.5 * up + 0.5 * part.smooth[part.smoothed_by[number]](up)
        start += side**2
    torch.testing.assert_close(part.lookup(out.ids), whole.flatten(2).transpose(1, 2))
    parts = torch.cat([part.partial(out.ids, number) for number in range(3)], dim=1)
    assert torch.equal(part.partials(out.ids), parts), "all scales at once give what one by one gives"


def test_a_code_of_a_scale_is_nearest_to_what_is_left_there() -> None:
    part, x = trained(50), smooth_fields(9)
    ids, start = part(x).ids, 0
    for number, side in enumerate((1, 2, 4)):
        totals = list(part._sums(ids, number))
        left = x.transpose(1, 2).unflatten(2, (4, 4)) - totals[-1]
        cells = F.interpolate(left, size=(side, side), mode="area").flatten(2).transpose(1, 2)
        nearest = torch.cdist(cells, part.codewords.expand(16, -1, -1)).argmin(dim=-1)
        assert (nearest == ids[:, start : start + side**2, 0]).float().mean() > 0.99
        start += side**2


def test_losses_are_means_over_scales() -> None:
    part, x = multiscale(commitment=0.25).eval(), smooth_fields(9)
    out = part(x)
    target = x.transpose(1, 2).unflatten(2, (4, 4))
    errors = torch.stack([(total - target).square().mean() for total in list(part._sums(out.ids, 3))[1:]])
    torch.testing.assert_close(out.losses["codebook"], errors.mean())
    torch.testing.assert_close(out.losses["commitment"], 0.25 * errors.mean())


def test_neighbouring_scales_share_a_convolution() -> None:
    """As published: four for ten scales."""
    part = multiscale(scales=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    assert len(part.smooth) == 4 and part.smoothed_by == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert multiscale(scales=(3,)).smoothed_by == [0]


def test_refusals() -> None:
    with pytest.raises(CynosureError, match="4 x 4 vectors, the tokenizer writes 9"):
        multiscale().segments(9)
    with pytest.raises(CynosureError, match="the tokenizer writes 9"):
        multiscale()(torch.zeros(1, 9, 4))
    with pytest.raises(ValidationError, match="scales must grow"):
        multiscale(scales=(1, 4, 2))
    with pytest.raises(CheckpointError, match="32 codewords"):
        multiscale(vocab_size=8).load_state_dict(multiscale().state_dict())


def test_a_convolution_that_smooths_no_scale_is_refused() -> None:
    """It would never get a gradient, which several processes wait for."""
    with pytest.raises(ValueError, match="set convolutions: 5"):
        multiscale(scales=(1, 2, 3, 4, 5, 6, 7), convolutions=6)
