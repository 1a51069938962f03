"""Losses of image enhancement. Shapes: B batch, C curve maps, H W pixels; pictures are [B, 3, H, W] in [0, 1].

Zero-DCE (Guo et al. 2020, section 3.2) published formulas that its released code does not compute. Both are here:
'coded' is what its and STAR's published numbers were trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch.nn import functional as F

Formulas = Literal["coded", "published"]
REGION, EXPOSURE_REGION = 4, 16
"""Pixels on the side of what spatial consistency and exposure compare; what is left at the borders is dropped."""
WELL_EXPOSED = 0.6
SHARED_SMOOTHNESS = 1600.0
"""Weight in the code of Zero-DCE++, whose steps share one map."""
WEIGHTS: Mapping[Formulas, Mapping[str, float]] = MappingProxyType(
    {
        "coded": {"spatial": 1.0, "exposure": 10.0, "color": 5.0, "smoothness": 200.0},
        "published": {"spatial": 1.0, "exposure": 1.0, "color": 0.5, "smoothness": 20.0},
    }
)


def spatial_consistency(enhanced: torch.Tensor, picture: torch.Tensor, formulas: Formulas = "coded") -> torch.Tensor:
    """How much the differences between neighbouring regions change. Published, borders have no neighbour and signs do
    not count; as coded the neighbour of a border is black."""
    changes = [now - before for now, before in zip(_steps(enhanced, formulas), _steps(picture, formulas), strict=True)]
    return torch.stack(changes).square().sum(0).mean()


def _steps(picture: torch.Tensor, formulas: Formulas) -> list[torch.Tensor]:
    """Differences of every region from its left, right, upper and lower neighbour, four times [B, 1, h, w]."""
    grey = _pooled(picture, REGION)
    padded = F.pad(grey, (1, 1, 1, 1), mode="constant" if formulas == "coded" else "replicate")
    middle, before, after = slice(1, -1), slice(None, -2), slice(2, None)
    sides = ((middle, before), (middle, after), (before, middle), (after, middle))
    steps = [grey - padded[:, :, rows, columns] for rows, columns in sides]
    return steps if formulas == "coded" else [step.abs() for step in steps]


def exposure(enhanced: torch.Tensor, formulas: Formulas = "coded", level: float = WELL_EXPOSED) -> torch.Tensor:
    """How far regions are from a good level of grey: squared as coded, absolute as published."""
    error = _pooled(enhanced, EXPOSURE_REGION) - level
    return error.square().mean() if formulas == "coded" else error.abs().mean()


def color_constancy(enhanced: torch.Tensor, formulas: Formulas = "coded") -> torch.Tensor:
    """How unlike the mean colours of pictures are to grey: the norm of squared differences, or the sum of squares."""
    red, green, blue = enhanced.mean(dim=(2, 3)).unbind(1)
    squares = torch.stack([red - green, red - blue, green - blue], dim=1).square()
    per_picture = torch.linalg.vector_norm(squares, dim=1) if formulas == "coded" else squares.sum(1)
    return per_picture.mean()


def illumination_smoothness(curves: torch.Tensor, formulas: Formulas = "coded") -> torch.Tensor:
    """How rough curve maps [B, C, H, W] are: squared differences of neighbours, summed over all maps and doubled as
    coded; published, (|dx| + |dy|)² summed over three colours, a mean over steps."""
    down, across = curves.diff(dim=2), curves.diff(dim=3)
    if formulas == "coded":
        return 2 * (down.square().mean((0, 2, 3)) + across.square().mean((0, 2, 3))).sum()
    both = down[..., :-1].abs() + across[:, :, :-1].abs()
    return 3 * both.square().mean()


def zero_reference(
    enhanced: torch.Tensor,
    picture: torch.Tensor,
    curves: torch.Tensor,
    weights: Mapping[str, float],
    formulas: Formulas = "coded",
    level: float = WELL_EXPOSED,
) -> dict[str, torch.Tensor]:
    """Zero-DCE's four losses, by their weights; they need no answer."""
    losses = {
        "spatial": spatial_consistency(enhanced, picture, formulas),
        "exposure": exposure(enhanced, formulas, level),
        "color": color_constancy(enhanced, formulas),
        "smoothness": illumination_smoothness(curves, formulas),
    }
    return {name: weights[name] * loss for name, loss in losses.items()}


def supervised(enhanced: torch.Tensor, answer: torch.Tensor, weights: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """STAR's losses against an answer [B, 3, H, W], those with a weight: mean absolute and squared error, colour
    constancy of the result alone, and 1 - cosine of the angle between colours."""
    losses = {
        "l1": lambda: F.l1_loss(enhanced, answer),
        "l2": lambda: F.mse_loss(enhanced, answer),
        "color": lambda: color_constancy(enhanced),
        "cosine": lambda: 1 - F.cosine_similarity(enhanced, answer, dim=1).mean(),
    }
    return {name: weights[name] * loss() for name, loss in losses.items() if weights.get(name)}


def _pooled(picture: torch.Tensor, region: int) -> torch.Tensor:
    """Mean grey of regions, [B, 1, h, w]; a picture smaller than a region is one."""
    kernel = (min(region, picture.shape[2]), min(region, picture.shape[3]))
    return F.avg_pool2d(picture.mean(1, keepdim=True), kernel)
