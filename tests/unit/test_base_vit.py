"""Base vit as it begins: with codes as strong as UViM's, and nothing where they are dropped."""

from __future__ import annotations

import torch

from cynosure.core.records import CodeSpec, Segment, Shapes
from cynosure_plugins.bases.vit import ViTBase

WIDTH = 64
"""Of a code vector."""


def test_codes_begin_with_unit_variance_and_dropped_ones_as_nothing() -> None:
    torch.manual_seed(0)
    spec = CodeSpec((Segment("codes", 4, 1, 16),), (2, 2))
    config = ViTBase.Config(patch=8, dim=256, depth=0, heads=2, mlp_dim=16)
    base = ViTBase(config, Shapes((16, 16), {"depth": 1}, spec, WIDTH))
    assert base.code_stem is not None
    vectors = torch.randn(64, 4, WIDTH)
    assert abs(float(base.code_stem(vectors).detach().std()) - 1) < 0.05
    assert not base.code_stem(torch.zeros_like(vectors)).any()
