"""Retouching: a picture as a photographer would finish it, by curves for every pixel and, for the whole picture, a 3-D
table of colours (LUT) that a network blends.

Sources: image-adaptive 3-D LUTs (Zeng et al. 2020, TPAMI); curves before the table, as in SepLUT (Yang et al. 2022),
here Zero-DCE's. Zeng et al. learn three basis tables of 33³ nodes beside a network that weighs them. Tasks have no
parameters, so here the basis is fixed: products of Chebyshev polynomials of the three colours, of low degree, each
weighed for red, green and blue by three maps, whose mean over the picture counts. That costs little. The maps come
from a base's last layer, which is linear: each of its columns is a learnt basis table, and the features that it reads,
averaged over the picture, are Zeng's weights (exactly so for bases that do not end in tanh). Tables are smooth by
construction, for which Zeng et al. need a loss, and any base can write them; what they cannot hold is an abrupt change
between neighbouring colours.

Shapes: B batch, C maps, K basis tables, N nodes of a table on a side, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebvander
from pydantic import Field
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure_tasks.curves import curve_change, curve_channels
from cynosure_tasks.picture_transform import PictureTransform, TransformConfig
from cynosure_tasks.tiles import Change

NODES = 17


class Retouching(PictureTransform):
    """The first maps are curves; then three for every basis table, the weights for red, green and blue."""

    class Config(TransformConfig):
        shared: bool = Field(False, description="one map of curves for all eight steps, not eight")
        order: int = Field(3, ge=1, le=8, description="degree of the basis tables: 1, 2, 3 have 4, 10, 20 of them")

    name = "retouching"
    config: Config

    def __init__(self, config: Config, image_size: tuple[int, int]) -> None:
        super().__init__(config, image_size)
        self.curves = curve_channels(config.shared)
        self.basis = basis_tables(config.order)

    @property
    def channels(self) -> int:
        return self.curves + 3 * len(self.basis)

    def pointwise(self, maps: torch.Tensor) -> tuple[torch.Tensor, Change]:
        bend, table = curve_change(self.curves), self.table(maps)

        def retouch(picture: torch.Tensor, curves: Iterable[torch.Tensor], inplace: bool) -> torch.Tensor:
            bent = bend(picture, curves, inplace)
            return bent + look_up(table, bent)

        return maps[:, : self.curves], retouch

    def table(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, h, w] -> the picture's table less the colours themselves, [B, 3, N, N, N] by blue, green, red."""
        weights = maps[:, self.curves :].mean(dim=(2, 3)).unflatten(1, (-1, 3, 1, 1, 1))
        # Products and a sum, because a matrix product would lose digits under autocast.
        return (weights * self.basis.to(maps.device)[:, None]).sum(1)


def basis_tables(order: int, nodes: int = NODES) -> torch.Tensor:
    """Products T_i(red) T_j(green) T_k(blue) with i + j + k up to `order`, float32 [K, N, N, N] by blue, green, red.

    T are the Chebyshev polynomials on [0, 1], the first of them 1. The n-th is up to 2 n² times as steep as the colours
    are, so that tables are scaled down to add no more than 1 to how steep the picture's is: small errors stay small.
    """
    axis = chebvander(np.linspace(-1, 1, nodes), order).T
    degrees = [degree for degree in product(range(order + 1), repeat=3) if sum(degree) <= order]
    tables = [
        np.einsum("b,g,r->bgr", axis[k], axis[j], axis[i]) / (2 * max(i, j, k, 1) ** 2)
        for i, j, k in sorted(degrees, key=sum)
    ]
    return torch.from_numpy(np.stack(tables).astype(np.float32))


def look_up(tables: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """Tables [B, 3, N, N, N] by blue, green and red at the colours of pictures [B, 3, H, W] in [0, 1] -> [B, 3, H, W],
    trilinear between nodes; colours outside count as the nearest."""
    at = (2 * picture - 1).permute(0, 2, 3, 1)[:, None]
    return F.grid_sample(tables, at, mode="bilinear", padding_mode="border", align_corners=True)[:, :, 0]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("retouching", Retouching)
