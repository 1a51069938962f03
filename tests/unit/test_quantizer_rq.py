"""The rq quantizer: residuals, partial decoding, depth dropout, and how shared and separate codebooks learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cynosure.errors import CheckpointError, TrainingError
from cynosure_plugins.quantizers.rq import ResidualQuantizer


def rq(**options: Any) -> ResidualQuantizer:
    torch.manual_seed(0)
    return ResidualQuantizer(ResidualQuantizer.Config(**{"vocab_size": 16, "dim": 4, "depth": 3, **options}))


def vectors(seed: int, batch: int = 8, length: int = 16) -> torch.Tensor:
    return torch.randn(batch, length, 4, generator=torch.Generator().manual_seed(seed))


def trained(steps: int = 20, **options: Any) -> ResidualQuantizer:
    part = rq(**options).train()
    optimizer = torch.optim.Adam([*part.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    for seed in range(steps):
        losses = part(vectors(seed)).losses
        if "codebook" in losses:
            optimizer.zero_grad()
            losses["codebook"].backward()
            optimizer.step()
        part.learn()
    return part.eval()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("update", ["ema", "totals", "gradient"])
def test_every_depth_brings_the_sum_closer(shared: bool, update: str) -> None:
    part = trained(60 if update == "gradient" else 20, shared=shared, update=update)
    x = vectors(99)
    ids = part(x).ids
    errors = [float((x - part.partial(ids, depth).detach()).square().mean()) for depth in (1, 2, 3)]
    assert 1.0 > errors[0] > errors[1] > errors[2], errors
    assert errors[2] < 0.3 * float(x.square().mean())


def test_depths_add_up() -> None:
    part = trained(shared=False)
    ids = part(vectors(9)).ids
    parts = part.by_depth(ids)
    torch.testing.assert_close(parts.sum(dim=2), part.lookup(ids))
    torch.testing.assert_close(part.partial(ids, 2), parts[:, :, 0] + parts[:, :, 1])
    assert torch.equal(part.partial(ids, 2, "select"), parts[:, :, 1])
    assert torch.equal(part.partial(ids[..., :2], 2), part.partial(ids, 2)), "deeper codes may be missing"


def test_commitment_is_the_mean_over_depths() -> None:
    part, x = trained(commitment=2.0), vectors(9)
    out = part(x)
    wanted = torch.stack([(x - part.partial(out.ids, depth)).square().mean() for depth in (1, 2, 3)]).mean()
    torch.testing.assert_close(out.losses["commitment"], 2 * wanted)


def test_depth_dropout_passes_first_codes_only_and_keeps_all_ids() -> None:
    part = trained(depth_dropout=0.75)
    x = vectors(9, batch=200)
    whole = part(x)
    part.train()
    out = part(x)
    assert torch.equal(out.ids, whole.ids), "codes stay whole; only what passes on is cut"
    cuts = torch.stack([part.partial(out.ids, depth) for depth in (1, 2, 3)])
    matches = torch.isclose(cuts, out.vectors, atol=1e-6).all(dim=(2, 3))
    assert matches.any(dim=0).all(), "every row passes some prefix"
    shares = matches.float().mean(dim=1)
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.25, 0.5]), atol=0.1, rtol=0)


def test_a_shared_codebook_learns_from_all_depths_at_once() -> None:
    part = rq(update="totals", replace="split", min_count=0, decay=0.5).train()
    before = part.codebooks[0].get_buffer("counts").clone()
    out = part(vectors(0))
    part.learn()
    assert torch.equal(part.codebooks[0].get_buffer("counts"), 0.5 * before + out.usage)


def test_immediate_changes_nothing_for_separate_codebooks() -> None:
    one, two = (trained(5, shared=False, immediate=immediate) for immediate in (False, True))
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_immediate_searches_the_codebook_that_the_depth_before_changed() -> None:
    part = rq(immediate=True, decay=0.5).train()
    before = {name: value.clone() for name, value in part.state_dict().items()}
    first = part(vectors(0))
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())
    part.learn()
    assert int(part.codebooks[0].get_buffer("step")) == 3, "one update a depth"
    plain = rq(decay=0.5).train()(vectors(0))
    assert torch.equal(first.ids[..., 0], plain.ids[..., 0]) and not torch.equal(first.ids, plain.ids)


def test_soft_codes_are_distributions_and_draws_follow_them() -> None:
    part, x = trained(), vectors(9)
    ids, soft = part.soft_codes(x, temperature=0.5)
    assert torch.equal(ids, part(x).ids) and soft.shape == (8, 16, 3, 16)
    torch.testing.assert_close(soft.sum(-1), torch.ones(8, 16, 3))
    drawn, _ = part.soft_codes(x[:1, :1].expand(1, 4000, 4), temperature=2.0, stochastic=True)
    _, wanted = part.soft_codes(x[:1, :1], temperature=2.0)
    shares = drawn[0, :, 0].bincount(minlength=16) / 4000
    torch.testing.assert_close(shares, wanted[0, 0, 0], atol=0.04, rtol=0)


def test_refusals() -> None:
    with pytest.raises(CheckpointError, match="16 codewords of width 4, this model 8 of width 4"):
        rq(vocab_size=8).load_state_dict(rq().state_dict())
    with pytest.raises(ValidationError, match="immediate needs update"):
        rq(immediate=True, update="gradient")
    part = rq(immediate=True).train()
    before = {name: value.clone() for name, value in part.state_dict().items()}
    with pytest.raises(TrainingError, match="not finite"):
        part(torch.full((1, 2, 4), torch.nan))
        part.learn()
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())
