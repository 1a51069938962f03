"""Resizing grids of vectors, as UViM does it between its token grids (triangle filter, half-pixel centres).

Every linear map here is separable: one small weight matrix for the rows, one for the columns.
Shapes: B batch, h w and H W grid rows and columns before and after, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

Size = tuple[int, int]


def resize_linear(grid: torch.Tensor, size: Size) -> torch.Tensor:
    """Grid [B, h, w, d] -> [B, H, W, d] by the triangle filter with half-pixel centres.

    When shrinking, the filter is widened by the ratio (anti-aliasing); weights that fall outside are renormalised away.
    """
    return _separable(grid, size, _triangle)


def zoom_positions(grid: torch.Tensor, size: Size) -> torch.Tensor:
    """Position embeddings [B, h, w, d] -> [B, H, W, d], linear and corner-aligned: corners stay where they are.

    This is how published ViT checkpoints move their position tables to another grid (not half-pixel).
    """
    return _separable(grid, size, _corner_aligned)


def _separable(grid: torch.Tensor, size: Size, kernel: Callable[[int, int], np.ndarray]) -> torch.Tensor:
    batch, rows, columns, dim = grid.shape
    if (rows, columns) == tuple(size):
        return grid
    down, across = (
        torch.tensor(kernel(*ends), dtype=grid.dtype, device=grid.device)
        for ends in ((rows, size[0]), (columns, size[1]))
    )
    grid = down @ grid.reshape(batch, rows, columns * dim)
    grid = across @ grid.reshape(batch * size[0], columns, dim)
    return grid.reshape(batch, *size, dim)


# The caches hold arrays, not tensors: a tensor made in inference mode or while exporting must not be used elsewhere.


@lru_cache(maxsize=64)
def _triangle(length: int, new_length: int) -> np.ndarray:
    ratio = length / new_length
    centres = (np.arange(new_length)[:, None] + 0.5) * ratio - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(length) - centres) / max(1.0, ratio))
    return weights / weights.sum(axis=1, keepdims=True)


@lru_cache(maxsize=64)
def _corner_aligned(length: int, new_length: int) -> np.ndarray:
    centres = np.linspace(0, length - 1, new_length)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(np.arange(length) - centres))
