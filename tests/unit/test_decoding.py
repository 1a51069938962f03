"""Drawing codes: frequencies follow the softmax, filters keep the right sets, a row depends on its own seed only."""

from __future__ import annotations

import pytest
import torch

from cynosure.core.decoding import draw, draw_all, filter_logits, row_uniforms
from cynosure.core.records import SampleSettings

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -4.0])
MANY = 20_000


def frequencies(logits: torch.Tensor, settings: SampleSettings, many: int = MANY) -> torch.Tensor:
    uniforms = row_uniforms(torch.arange(many), 1)[:, 0]
    ids = draw(logits.expand(many, -1), settings, uniforms)
    return torch.bincount(ids, minlength=len(logits)) / many


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_are_as_frequent_as_the_softmax_says(temperature: float) -> None:
    wanted = (LOGITS / temperature).softmax(-1)
    found = frequencies(LOGITS, SampleSettings(temperature=temperature))
    spread = (wanted * (1 - wanted) / MANY).sqrt()
    assert bool(((found - wanted).abs() < 4 * spread + 1e-9).all()), f"{found.tolist()} for {wanted.tolist()}"


def test_draws_are_the_inverse_of_the_cumulative_distribution() -> None:
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().expand(5, -1)
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71])
    assert draw(logits, SampleSettings(), uniforms).tolist() == [0, 0, 2, 2, 3]


def test_an_impossible_code_is_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).expand(3, -1)
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert draw(logits, SampleSettings(), uniforms).tolist() == [1, 3, 3]


def test_temperature_zero_takes_the_best() -> None:
    ids = draw(LOGITS.flip(0).expand(4, -1), SampleSettings(temperature=0), torch.tensor([0.0, 0.3, 0.6, 0.99]))
    assert ids.tolist() == [5, 5, 5, 5]


def kept(logits: torch.Tensor) -> list[int]:
    return torch.where(logits.isfinite())[-1].tolist()


def test_top_k_keeps_the_k_best() -> None:
    shuffled = LOGITS[[3, 0, 5, 1, 4, 2]]
    assert kept(filter_logits(shuffled, top_k=3)) == [1, 3, 5]
    assert kept(filter_logits(shuffled, top_k=1)) == [1]
    assert kept(filter_logits(shuffled, top_k=100)) == list(range(6))


def test_top_p_keeps_the_smallest_set_of_that_mass() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    for p, wanted in (
        (0.3, [1]),
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.8, [1, 2, 3]),
        (0.95, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ):
        assert kept(filter_logits(logits, top_p=p)) == wanted, f"top_p {p}"


def test_filters_work_row_by_row_and_together() -> None:
    both = filter_logits(torch.stack([LOGITS, LOGITS.flip(0)]), top_k=3, top_p=0.6)
    assert kept(both[0]) == [0] or kept(both[0]) == [0, 1]
    assert kept(both[1]) == [5 - i for i in reversed(kept(both[0]))]


def test_filtered_draws_are_renormalised() -> None:
    found = frequencies(LOGITS, SampleSettings(top_k=2))
    assert found[2:].sum() == 0
    assert found[0].item() == pytest.approx(LOGITS[:2].softmax(-1)[0].item(), abs=0.015)


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    values = row_uniforms(torch.arange(2000), 50)
    assert values.dtype == torch.float32 and values.min() >= 0 and values.max() < 1
    counts = torch.histc(values, 20, 0, 1)
    assert bool(((counts - 5000).abs() < 5 * 5000**0.5).all())
    centred = values - 0.5
    for what, product in (
        ("neighbouring seeds", centred[1:] * centred[:-1]),
        ("neighbouring positions", centred[:, 1:] * centred[:, :-1]),
    ):
        assert abs(product.mean().item()) < 5 / 12 / product.numel() ** 0.5, f"{what} are correlated"


def test_a_row_depends_on_its_own_seed_only() -> None:
    seeds = torch.tensor([7, -3, 0, 2**62])
    together = row_uniforms(seeds, 16)
    for i, seed in enumerate(seeds):
        assert torch.equal(row_uniforms(seed[None], 16)[0], together[i])
    assert torch.equal(row_uniforms(seeds, 5), together[:, :5]), "asking for more must not change the first ones"
    assert len(torch.unique(together)) == together.numel()


def test_whole_sequences_are_drawn_by_the_filters_of_their_depths() -> None:
    """Codes lie position by position, depth first; depth 0 may only take the best, depth 1 one of the best three."""
    logits = LOGITS[[3, 0, 5, 1, 4, 2]].expand(500, 8, -1)
    settings, uniforms = SampleSettings(top_k=(1, 3), top_p=(1.0, 1.0)), row_uniforms(torch.arange(500), 8)
    ids = draw_all(logits, settings, uniforms, 2)
    assert set(ids[:, ::2].flatten().tolist()) == {1}
    assert set(ids[:, 1::2].flatten().tolist()) == {1, 3, 5}
    plain = draw_all(logits, SampleSettings(top_k=3), uniforms, 2)
    assert torch.equal(plain.flatten(), draw(logits.flatten(0, 1), SampleSettings(top_k=3), uniforms.flatten()))
