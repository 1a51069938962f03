"""Networks inside encoders that stand still while a prior learns."""

from __future__ import annotations

from torch import nn


def freeze(network: nn.Module) -> None:
    """Make parameters plain state: whoever trains all parameters of a model then finds none here."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
