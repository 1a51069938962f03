"""Code dropout and codebook statistics."""

from __future__ import annotations

import torch

from cynosure.core.dropout import keep_mask
from cynosure.core.usage import codebook_report, perplexity, used


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_number_of_kept_codes_is_uniform_from_none_to_all() -> None:
    length, rows = 4, 20_000
    kept = keep_mask(rows, length, 1.0, rng()).sum(dim=1)
    share = torch.bincount(kept, minlength=length + 1) / rows
    assert len(share) == length + 1
    torch.testing.assert_close(share, torch.full((length + 1,), 1 / (length + 1)), atol=0.015, rtol=0)


def test_every_position_is_kept_equally_often() -> None:
    share = keep_mask(20_000, 6, 1.0, rng()).float().mean(dim=0)
    torch.testing.assert_close(share, torch.full((6,), 0.5), atol=0.02, rtol=0)


def test_probability_is_the_share_of_examples_that_lose_codes() -> None:
    length, rows, probability = 9, 20_000, 0.4
    whole = keep_mask(rows, length, probability, rng()).all(dim=1).float().mean()
    wanted = 1 - probability * length / (length + 1)
    assert abs(float(whole) - wanted) < 0.015
    assert keep_mask(50, length, 0.0, rng()).all(), "probability 0 keeps every code"


def test_equal_generators_give_equal_masks() -> None:
    assert torch.equal(keep_mask(8, 16, 0.7, rng(3)), keep_mask(8, 16, 0.7, rng(3)))
    assert not torch.equal(keep_mask(8, 16, 0.7, rng(3)), keep_mask(8, 16, 0.7, rng(4)))


def test_codebook_statistics() -> None:
    counts = torch.tensor([5, 5, 0, 0])
    assert used(counts) == 0.5
    assert abs(perplexity(counts) - 2) < 1e-6
    assert abs(perplexity(torch.full((7,), 3)) - 7) < 1e-6
    assert perplexity(torch.zeros(4, dtype=torch.int64)) == 0
    assert codebook_report(counts)["dead"] == 2
