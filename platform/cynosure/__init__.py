"""Cynosure: vision tasks as plugins, one guided model for many of them.

    import cynosure
    model = cynosure.load("runs/demo")
    model.predict("kitchen.jpg", task="depth").save("depth.png")

Public names are imported on first use, so that importing or listing never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cynosure.core.contracts import Base as Base
    from cynosure.core.contracts import Dataset as Dataset
    from cynosure.core.contracts import Encoder as Encoder
    from cynosure.core.contracts import Prior as Prior
    from cynosure.core.contracts import Quantizer as Quantizer
    from cynosure.core.contracts import Task as Task
    from cynosure.core.contracts import Tokenizer as Tokenizer
    from cynosure.core.records import Batch as Batch
    from cynosure.core.records import Codes as Codes
    from cynosure.core.records import CodeSpec as CodeSpec
    from cynosure.core.records import Example as Example
    from cynosure.core.records import Prediction as Prediction
    from cynosure.errors import CynosureError as CynosureError
    from cynosure.hookspecs import HOOK_API as HOOK_API
    from cynosure.hookspecs import hookimpl as hookimpl
    from cynosure.run.loading import load as load

__version__ = "0.1.0"

_HOMES = {
    "cynosure.run.loading": ("load",),
    "cynosure.hookspecs": ("hookimpl", "HOOK_API"),
    "cynosure.errors": ("CynosureError",),
    "cynosure.core.contracts": ("Task", "Quantizer", "Tokenizer", "Base", "Encoder", "Prior", "Dataset"),
    "cynosure.core.records": ("Example", "Batch", "Codes", "CodeSpec", "Prediction"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cynosure' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
