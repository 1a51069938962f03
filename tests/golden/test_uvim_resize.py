"""Resizes and position tables against arrays computed by the published UViM code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isqrt

import numpy as np
import pytest
import torch

from cynosure.core.resize import resize_linear, zoom_positions
from cynosure.data.augment import resize_nearest

Arrays = dict[str, np.ndarray]


def cases(ops: Arrays, kind: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    names = [name.removesuffix("/in") for name in ops if name.startswith(f"{kind}/") and name.endswith("/in")]
    assert names, f"no {kind} cases among the reference arrays"
    for name in names:
        yield torch.from_numpy(ops[f"{name}/in"]), torch.from_numpy(ops[f"{name}/out"])


def test_linear_resize_antialiases_when_shrinking_and_renormalises_borders(ops: Arrays) -> None:
    for grid, wanted in cases(ops, "resize_linear"):
        _, rows, columns, _ = wanted.shape
        torch.testing.assert_close(resize_linear(grid, (rows, columns)), wanted, atol=2e-5, rtol=1e-5)


def test_position_tables_move_to_another_grid_corner_aligned(ops: Arrays) -> None:
    for table, wanted in cases(ops, "posemb"):
        old, new = isqrt(table.shape[1]), isqrt(wanted.shape[1])
        grid = table.unflatten(1, (old, old))
        torch.testing.assert_close(zoom_positions(grid, (new, new)).flatten(1, 2), wanted, atol=2e-5, rtol=1e-5)


def test_nearest_resize_moves_whole_pictures(ops: Arrays) -> None:
    names = [name for name in ops if re.fullmatch(r"resize_nearest/.*/in", name)]
    assert names, "no resize_nearest case among the reference arrays"
    for name in names:
        grid, wanted = ops[name], ops[name.replace("/in", "/out")]
        found = resize_nearest(grid, wanted.shape[:2])
        # The compiled original lands one lower where (i + 1/2) length / new_length is whole.
        clear = [(2 * np.arange(n) + 1) * m % (2 * n) != 0 for m, n in zip(grid.shape, wanted.shape, strict=True)]
        np.testing.assert_array_equal(found[np.ix_(*clear)], wanted[np.ix_(*clear)])


@pytest.mark.parametrize("sizes", [((5, 7), (3, 11)), ((2, 3), (4, 3))])
def test_resizes_keep_constants_and_axes(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Rows and columns are not exchanged, weights add up to one: a row ramp stays constant along the columns."""
    old, new = sizes
    ramp = torch.arange(old[0], dtype=torch.float32).view(1, -1, 1, 1).expand(1, *old, 2)
    for resize in (resize_linear, zoom_positions):
        out = resize(ramp, new)
        assert out.shape == (1, *new, 2)
        torch.testing.assert_close(out, out[:, :, :1].expand_as(out))
        assert (out[0, 1:, 0, 0] > out[0, :-1, 0, 0]).all(), "the ramp must rise along the rows"
        torch.testing.assert_close(resize(torch.ones(1, *old, 2), new), torch.ones(1, *new, 2))
