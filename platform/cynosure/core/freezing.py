"""Parts of a model that stand still while the rest learns: no gradients, and evaluation mode for what holds state."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Let the arrays called `names` in the model's state stand still.

    A module in which nothing else is goes into evaluation mode, since codebooks and running statistics change only in
    training mode. The modules around it stay as they are.
    """
    if not names:
        return
    frozen = set(names)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in frozen:
            parameter.requires_grad_(False)
    learning = [name for name in model.state_dict() if name not in frozen]
    _rest(model, "", frozen, learning)


def _rest(module: nn.Module, prefix: str, frozen: Collection[str], learning: Collection[str]) -> None:
    for name, child in module.named_children():
        inside = f"{prefix}{name}."
        if any(each.startswith(inside) for each in learning):
            _rest(child, inside, frozen, learning)
        elif any(each.startswith(inside) for each in frozen):
            child.eval()
