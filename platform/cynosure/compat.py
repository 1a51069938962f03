"""Repairs for faults of other packages, each applied only where the fault shows."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[Any] = []  # a torch.library.Library takes its operators with it when it is collected


@cache
def repair_torchvision() -> None:
    """Make `import torchvision` work beside a torch that it was not built for; torchmetrics and timm import it.

    torchvision 0.28 from the package index beside a CPU-only torch 2.13 cannot load its compiled operators, and then
    dies because it adds to two of them that were never declared. Declaring them is enough: nothing here calls them.
    Does nothing where torchvision is sound or absent.
    """
    try:
        import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_operators()
        import_module("torchvision")


def import_timm() -> Any:
    """The module `timm`, with torchvision repaired first where that is needed."""
    repair_torchvision()
    return import_module("timm")


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + _NMS)
    _libraries.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # left half imported by the failure
