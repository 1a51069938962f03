"""Transformers that tasks share: norms of their own, which begin as nothing and reach no other task."""

from __future__ import annotations

import pytest
import torch

from cynosure.core.blocks import Block, Transformer

DIM, DEPTH = 8, 2


@pytest.fixture
def shared() -> Transformer:
    torch.manual_seed(0)
    return Transformer(DIM, DEPTH, heads=2, mlp_dim=16, tasks=["depth", "panoptic"]).eval()


def tokens() -> torch.Tensor:
    return torch.randn(3, 5, DIM, generator=torch.Generator().manual_seed(1))


def test_norms_of_tasks_begin_as_the_shared_ones_to_the_last_bit(shared: Transformer) -> None:
    plain = Transformer(DIM, DEPTH, heads=2, mlp_dim=16)
    plain.load_state_dict({name: value for name, value in shared.state_dict().items() if "offsets" not in name})
    for task in ("depth", "panoptic"):
        assert torch.equal(shared(tokens(), task), plain.eval()(tokens()))


def test_one_task_has_no_norms_of_its_own() -> None:
    assert not Transformer(DIM, DEPTH, heads=2, mlp_dim=16, tasks=["depth"]).offsets


@pytest.mark.parametrize("block", range(DEPTH))
@pytest.mark.parametrize("norm", [0, 1])
@pytest.mark.parametrize("what", [0, 1], ids=["scale", "shift"])
def test_every_offset_reaches_its_task_and_no_other(shared: Transformer, block: int, norm: int, what: int) -> None:
    before = {task: shared(tokens(), task) for task in ("depth", "panoptic")}
    with torch.no_grad():
        shared.offsets["depth"][block, norm, what] += 0.5
    assert not torch.equal(shared(tokens(), "depth"), before["depth"])
    assert torch.equal(shared(tokens(), "panoptic"), before["panoptic"])


@pytest.mark.parametrize("post_norm", [False, True])
def test_offsets_are_added_to_scale_and_shift_of_the_two_norms(post_norm: bool) -> None:
    block = Block(DIM, 2, 16, post_norm=post_norm).eval()
    offsets = 0.1 * torch.randn(2, 2, DIM, generator=torch.Generator().manual_seed(2))
    found = block(tokens(), offsets=offsets)
    with torch.no_grad():
        for norm, (scale, shift) in zip((block.norm1, block.norm2), offsets, strict=True):
            norm.weight += scale
            norm.bias += shift
    torch.testing.assert_close(found, block(tokens()))
