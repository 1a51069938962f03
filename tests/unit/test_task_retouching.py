"""Retouching: blended tables of colours are looked up as by hand, after curves, in tiles that nobody can tell."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from cynosure.core.records import Batch
from cynosure.data.loading import collate
from cynosure_tasks.curves import apply_curves
from cynosure_tasks.retouching import NODES, Retouching, basis_tables, look_up

SIZE = (16, 24)
RNG = np.random.default_rng(0)
SIZES = [(1, 1), (7, 500), (130, 77)]


def retouching(**options: Any) -> Retouching:
    return Retouching(Retouching.Config(augment="none", **options), SIZE)


def photo(size: tuple[int, int] = (48, 64), dtype: Any = np.uint8, seed: int = 1) -> np.ndarray:
    levels = np.random.default_rng(seed).random((*size, 3), dtype=np.float32)
    return levels if dtype == np.float32 else np.rint(levels * np.iinfo(dtype).max).astype(dtype)


def batch_of(task: Retouching, *rows: dict[str, Any]) -> Batch:
    return collate(task.name, [task.prepare(row, RNG, train=False) for row in rows])


def outputs_of(task: Retouching, scale: float = 0.3) -> torch.Tensor:
    return scale * torch.randn(1, task.channels, *SIZE, generator=torch.Generator().manual_seed(0))


def answer(task: Retouching, outputs: torch.Tensor, picture: np.ndarray) -> np.ndarray:
    """At the size of the picture, which may be of any type."""
    prediction = task.decode(outputs, batch_of(task, {"degraded": photo()}))[0]
    return task.restore(prediction, picture).values["rgb"]


def planes(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def by_hand(table: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """A table [3, N, N, N] by blue, green, red at one colour in [0, 1]: the eight nodes around it, by their shares."""
    at = colour.astype(np.float64) * (table.shape[1] - 1)
    low = np.minimum(np.floor(at), table.shape[1] - 2).astype(int)
    total = np.zeros(3)
    for corner in product((0, 1), repeat=3):
        shares = [at[i] - low[i] if up else 1 - (at[i] - low[i]) for i, up in enumerate(corner)]
        red, green, blue = low + corner
        total += np.prod(shares) * table[:, blue, green, red]
    return total


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_outputs_of_zero_or_nan_change_nothing(dtype: Any, value: float) -> None:
    task, picture = retouching(), photo(dtype=dtype)
    found = answer(task, torch.full((1, task.channels, *SIZE), value), picture)
    assert found.dtype == dtype and np.array_equal(found, picture)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_tiles_are_the_untiled_result(shared: bool, size: tuple[int, int]) -> None:
    task, picture = retouching(shared=shared), photo(size, np.float32)
    wanted = task.apply(planes(picture), outputs_of(task))[0].permute(1, 2, 0)
    np.testing.assert_allclose(answer(task, outputs_of(task), picture), wanted, atol=1e-5)


def test_tables_are_looked_up_as_by_hand() -> None:
    table = np.random.default_rng(3).random((3, 5, 5, 5), dtype=np.float32)
    colours = np.concatenate([photo((1, 40), np.float32)[0], [(0, 0, 0), (1, 1, 1), (1, 0, 0.25)]]).astype(np.float32)
    found = look_up(torch.from_numpy(table)[None], planes(colours[None]))[0, :, 0].T
    np.testing.assert_allclose(found, [by_hand(table, colour) for colour in colours], atol=1e-5)


def test_an_answer_is_curves_and_then_the_blend_of_basis_tables() -> None:
    """The whole by hand: bend, blend by the mean of each weight map, interpolate, add."""
    task, picture, outputs = retouching(order=2), photo(SIZE, np.float32), outputs_of(retouching(order=2), 0.1)
    bent = apply_curves(planes(picture), outputs[:, :24])[0].permute(1, 2, 0).numpy()
    weights = outputs[0, 24:].mean((1, 2)).reshape(10, 3).numpy()
    table = np.einsum("kc,kbgr->cbgr", weights, basis_tables(2).numpy())
    wanted = [[colour + by_hand(table, colour) for colour in row] for row in bent]
    np.testing.assert_allclose(answer(task, outputs, picture), np.clip(wanted, 0, 1), atol=1e-5)


def test_basis_tables_are_products_of_polynomials_of_low_degree() -> None:
    assert [len(basis_tables(order)) for order in (1, 2, 3)] == [4, 10, 20]
    tables, axis = basis_tables(2).numpy(), np.linspace(-1, 1, NODES)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    wanted = [np.ones_like(red), red, green, blue, red * green, green * blue, red * blue, (2 * red**2 - 1) / 4]
    for each in wanted:
        assert any(np.allclose(each / 2, table, atol=1e-6) for table in tables)
    assert np.linalg.matrix_rank(tables.reshape(10, -1)) == 10, "a table is a blend of the others"


@pytest.mark.parametrize("order", [1, 3, 8])
def test_no_basis_table_is_steeper_than_colours_are(order: int) -> None:
    """Steep ones would turn the rounding of one machine into visible steps of another."""
    tables = basis_tables(order)
    steepest = max(float(tables.diff(dim=axis).abs().max()) for axis in (1, 2, 3)) * (NODES - 1)
    assert 0.5 < steepest <= 1 + 1e-5


def test_tables_hold_for_the_whole_picture() -> None:
    """Where the weights stand does not matter, so that equal colours have equal answers everywhere."""
    task, picture, outputs = retouching(), photo(dtype=np.float32), outputs_of(retouching())
    outputs[:, :24] = 0
    rolled = outputs.roll((5, 7), dims=(2, 3))
    np.testing.assert_allclose(answer(task, outputs, picture), answer(task, rolled, picture), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"shared": True, "order": 1}], ids=str)
def test_a_short_fit_finds_most_of_a_retouch(options: dict[str, Any]) -> None:
    """Warmer, paler and brighter, all at once."""
    task, picture = retouching(**options), photo((32, 48))
    levels = picture / 255
    retouched = 0.6 * levels + 0.4 * levels.mean(-1, keepdims=True)
    retouched = np.rint(255 * np.clip(retouched**0.8 * np.array([1.1, 1.0, 0.8]), 0, 1)).astype(np.uint8)
    batch = batch_of(task, {"degraded": picture, "image": retouched})
    maps = torch.zeros(1, task.channels, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([maps], lr=0.01)
    losses = []
    for _ in range(60):
        loss = torch.stack(list(task.loss(maps.expand(-1, -1, *SIZE), batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.25 * losses[0], f"the untouched picture costs {losses[0]:.3f}, the fit still {losses[-1]:.3f}"


def test_tables_keep_their_digits_under_autocast() -> None:
    """Training in bfloat16 is of the network; a table of eight bits would band smooth skies."""
    task, picture = retouching(), planes(photo(dtype=np.float32))
    wanted = task.apply(picture, outputs_of(task))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(task.apply(picture, outputs_of(task)), wanted)


def test_strength_leads_from_the_picture_to_the_answer() -> None:
    task, picture = retouching(), photo(dtype=np.float32)
    none, half, whole = (answer(task.at_strength(s), outputs_of(task), picture) for s in (0, 0.5, 1))
    assert np.array_equal(none, picture)
    assert 0 < np.abs(half - picture).mean() < np.abs(whole - picture).mean()
