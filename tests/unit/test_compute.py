"""Blocks that are computed twice keep less and learn the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from cynosure.core.blocks import DecoderBlock, KVCache, Transformer
from cynosure.train.compute import compile_blocks, recompute_blocks


class Stack(nn.Module):
    """Both kinds of blocks, as a prior has them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Transformer(16, 3, 2, 64)
        self.decoder = nn.ModuleList(DecoderBlock(16, 2, 64, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        context = self.encoder(x)
        for block in self.decoder:
            x = block(x, block.cross.project(context))
        return x


def stacks() -> tuple[Stack, Stack]:
    torch.manual_seed(0)
    plain, other = Stack(), Stack()
    other.load_state_dict(plain.state_dict())
    return plain, other


@contextmanager
def kept() -> Iterator[dict[int, int]]:
    """Bytes by memory of what autograd keeps."""
    found: dict[int, int] = {}
    alive = []  # else another tensor might be given the same memory

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def test_gradients_are_equal_and_less_is_kept() -> None:
    plain, recomputed = stacks()
    recompute_blocks(recomputed)
    x, sizes = torch.randn(2, 32, 16, requires_grad=True), []
    for model in (plain, recomputed):
        with kept() as found:
            loss = model(x).square().sum()
        sizes.append(sum(found.values()) - sum(p.nbytes for p in model.parameters()))
        loss.backward()
    for (name, p), q in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.equal(p.grad, q.grad), name
    assert sizes[1] < sizes[0] / 3, "with six blocks, what is kept should fall to their inputs"


@pytest.mark.parametrize("change", [compile_blocks, recompute_blocks])
def test_names_stay_and_sampling_is_left_alone(change, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("a block was changed where nothing learns")

    plain, changed = stacks()
    monkeypatch.setattr("torch.compile", lambda forward: never)
    monkeypatch.setattr("cynosure.train.compute.checkpoint", never)
    change(changed)
    assert changed.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(1, 1, 16)
    with torch.no_grad():
        assert torch.equal(changed(x), plain(x))
        block = changed.decoder[0]
        block(x, block.cross.project(x), KVCache.empty(1, 2, 4, 8, x))
    with pytest.raises(AssertionError, match="nothing learns"):
        changed(x)
