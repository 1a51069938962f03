"""Tiny options for every built-in component: (kind, name) -> cases. A new component needs an entry here.

Options are what a recipe would say; `skip` maps a check that does not apply to the reason why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_data

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """Options of a component, or a function that writes its data into a folder and gives the options."""

    options: Options | Callable[[Path], Options] = field(default_factory=dict)
    skip: Mapping[str, str] = field(default_factory=dict)


VQ = {"name": "vq", "vocab_size": 16, "dim": 8}
TRANSFORMER = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
TRUNK = {**TRANSFORMER, "stem": (4, 8)}
VIT = {**TRANSFORMER, "patch": 8}
ORACLE = {**TRANSFORMER, "patch": 8, "code_grid": (2, 2), "quantizer": VQ}
VIT_ENCODER = {"name": "vit", **VIT}

CASES: dict[tuple[str, str], list[Case]] = {
    ("quantizer", "vq"): [
        Case({"vocab_size": 16, "dim": 8}),
        Case({"vocab_size": 16, "dim": 8, "update": "ema", "normalize": False, "commitment": 0.25}),
        Case({"vocab_size": 16, "dim": 8, "update": "gradient"}),
    ],
    ("tokenizer", "vit_oracle"): [Case(ORACLE)],
    ("base", "vit"): [Case(VIT)],
    ("base", "hybrid"): [Case(TRUNK)],
    ("encoder", "vit"): [Case(VIT)],
    ("encoder", "hybrid"): [Case(TRUNK)],
    ("encoder", "timm"): [
        Case({"model": "vit_tiny_patch16_224"}),
        Case({"model": "resnet10t"}),
        Case({"model": "resnet10t", "frozen": True}),
    ],
    ("encoder", "text"): [Case({**TRANSFORMER, "length": 16})],
    ("prior", "autoregressive"): [Case(TRANSFORMER), Case({**TRANSFORMER, "encoder": VIT_ENCODER})],
    ("task", "panoptic"): [Case({"max_instances": 8}), Case({"max_instances": 8, "stuff": "class"})],
    ("task", "depth"): [Case({"bins": 16}), Case({"encoding": "log"})],
    ("task", "colorization"): [Case(), Case({"encoding": "residual"})],
    ("dataset", "scenes"): [Case({"size": 32, "train": 6, "validation": 4, "test": 4})],
    ("dataset", "images"): [Case(tiny_data.pictures)],
    ("dataset", "coco_panoptic"): [Case(tiny_data.coco)],
    ("metric", "panoptic_quality"): [Case()],
    ("metric", "depth_error"): [Case()],
    ("metric", "color_error"): [Case()],
}
