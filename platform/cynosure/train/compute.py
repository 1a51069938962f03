"""How transformer blocks compute while they learn: compiled, or computed twice to keep less in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cynosure.core.blocks import TransformerBlock

Forward = Callable[..., Any]


def compile_blocks(model: nn.Module) -> None:
    """Compile the forward pass of every block, in place; no name in the model's state changes.

    Blocks of one kind and width share what was compiled; it is compiled again for a second batch size or token count,
    for all later ones together. Everything outside of blocks, such as quantizers, and all inference stays as it is.
    """
    for block in _blocks(model):
        _change(block, torch.compile)


def recompute_blocks(model: nn.Module) -> None:
    """Keep only the inputs of every block for the backward pass, which computes the block anew, in place.

    Blocks have no state, so they may run twice; quantizers have, and are never part of one. Encoders of timm do this in
    their own way.
    """
    for block in _blocks(model):
        _change(block, lambda forward: partial(checkpoint, forward, use_reentrant=False))
    for module in model.modules():
        if callable(recompute := getattr(module, "set_grad_checkpointing", None)):
            recompute()


def _blocks(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, TransformerBlock)]


def _change(block: nn.Module, change: Callable[[Forward], Forward]) -> None:
    """Change the forward pass where gradients are wanted: sampling's caches would compile anew for every token."""
    plain: Forward = block.forward
    changed = change(plain)

    def forward(*arguments: Any, **options: Any) -> Any:
        return (changed if torch.is_grad_enabled() else plain)(*arguments, **options)

    block.forward = forward
