"""The gumbel quantizer: random in training, never afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cynosure.errors import CheckpointError, TrainingError
from cynosure_plugins.quantizers.gumbel import GumbelQuantizer


def gumbel(**options: Any) -> GumbelQuantizer:
    torch.manual_seed(0)
    return GumbelQuantizer(GumbelQuantizer.Config(**{"vocab_size": 16, "dim": 4, **options}))


def test_only_training_is_random() -> None:
    part, x = gumbel(), torch.randn(2, 50, 4)
    assert not torch.equal(part(x).ids, part(x).ids), "training must explore"
    part.eval()
    assert torch.equal(part(x).ids, part(x).ids)
    assert torch.equal(part(x[:1]).ids, part(x).ids[:1]), "a row's codes depend on the rows beside it"


def test_straight_through_shows_the_base_what_ids_stand_for() -> None:
    part, x = gumbel(), torch.randn(2, 50, 4)
    out = part(x)
    assert torch.equal(out.vectors, part.lookup(out.ids))
    mixed = gumbel(straight_through=False)(x)
    assert not torch.equal(mixed.vectors, part.lookup(mixed.ids))


@pytest.mark.parametrize(("steps", "wanted"), [(0, 1.0), (2, 0.1), (4, 0.01), (9, 0.01)])
def test_the_temperature_falls_by_a_factor_each_step_and_then_stays(steps: int, wanted: float) -> None:
    part = gumbel(temperature=1.0, final_temperature=0.01, anneal_steps=4)
    for _ in range(steps):
        part(torch.randn(1, 3, 4))
        part(torch.randn(1, 3, 4))  # a second micro-batch of the same step
        part.learn()
    part.eval()(torch.randn(1, 3, 4))
    part.learn()
    assert float(part.temperature) == pytest.approx(wanted, rel=1e-4)


def test_the_gradient_teaches_to_choose_the_right_codeword() -> None:
    part = gumbel(temperature=0.5)
    wanted = torch.tensor([3, 9])
    x = torch.randn(1, 2, 4)
    target = part.lookup(wanted.view(1, 2, 1)).detach()
    part.codebook.requires_grad_(False)
    optimizer = torch.optim.Adam(part.project.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (part(x).vectors - target).square().sum().backward()
        optimizer.step()
    assert part.eval()(x).ids.flatten().tolist() == wanted.tolist()


def test_blocks_of_evaluation_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    part, x = gumbel(kl=1.0).eval(), torch.randn(2, 50, 4)
    whole = part(x)
    monkeypatch.setattr("cynosure_plugins.quantizers.codebook.BLOCK_BYTES", 4 * 2 * 16 * 7)
    blocks = part(x)
    assert torch.equal(whole.ids, blocks.ids)
    torch.testing.assert_close(whole.losses["kl"], blocks.losses["kl"])


def test_training_in_blocks_is_training_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise comes again in the backward pass; logits of all vectors are never kept for it."""
    part, vectors, rows = gumbel(kl=1.0), torch.randn(1, 50, 4), 7

    def trained(mix: Any) -> tuple[list[torch.Tensor], int]:
        part.zero_grad()
        x, kept = vectors.clone().requires_grad_(), [0]
        torch.manual_seed(1)

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            mixed, _, kl = mix(x)
        (mixed.sin().sum() + kl).backward()
        return [each.grad.clone() for each in (x, *part.parameters()) if each.grad is not None], max(kept)

    def at_once(x: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        mixed, _, kl = zip(*(part._mix_block(block) for block in x[0].split(rows)), strict=True)
        return torch.cat(mixed)[None], None, torch.stack(kl).sum() / 50

    def in_blocks(x: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        out = part(x)
        return out.vectors, None, out.losses["kl"]

    monkeypatch.setattr("cynosure_plugins.quantizers.codebook.BLOCK_BYTES", 4 * 2 * 16 * rows)
    wanted, _ = trained(at_once)
    found, largest = trained(in_blocks)
    torch.testing.assert_close(found, wanted)
    assert largest <= 50 * 4, f"{largest} numbers were kept; vectors are {50 * 4}, logits {50 * 16}"


def test_refusals() -> None:
    with pytest.raises(CheckpointError, match="16 codewords of width 4, this model 8 of width 4"):
        gumbel(vocab_size=8).load_state_dict(gumbel().state_dict())
    part = gumbel()
    part(torch.full((1, 2, 4), torch.inf))
    with pytest.raises(TrainingError):
        part.learn()
    assert int(part.step) == 0
