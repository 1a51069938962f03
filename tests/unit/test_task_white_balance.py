"""White balance: the right matrix undoes a cast exactly, at any size and depth, in tiles that nobody can tell."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cynosure.core.records import Batch
from cynosure.data.loading import collate
from cynosure_tasks.white_balance import TERMS, WhiteBalance

SIZE = (16, 24)
RNG = np.random.default_rng(0)
SIZES = [(1, 1), (7, 500), (130, 77)]
KINDS = ["matrix", "polynomial"]


def white_balance(**options: Any) -> WhiteBalance:
    return WhiteBalance(WhiteBalance.Config(augment="none", **options), SIZE)


def photo(size: tuple[int, int] = (48, 64), dtype: Any = np.uint8, seed: int = 1) -> np.ndarray:
    levels = np.random.default_rng(seed).random((*size, 3), dtype=np.float32)
    return levels if dtype == np.float32 else np.rint(levels * np.iinfo(dtype).max).astype(dtype)


def batch_of(task: WhiteBalance, *rows: dict[str, Any]) -> Batch:
    return collate(task.name, [task.prepare(row, RNG, train=False) for row in rows])


def outputs_of(task: WhiteBalance, scale: float = 0.3) -> torch.Tensor:
    return scale * torch.randn(1, task.channels, *SIZE, generator=torch.Generator().manual_seed(0))


def answer(task: WhiteBalance, outputs: torch.Tensor, picture: np.ndarray) -> np.ndarray:
    """At the size of the picture, which may be of any type; the model has seen 8 bits of it."""
    seen = photo() if picture.dtype == np.float32 else picture
    prediction = task.decode(outputs, batch_of(task, {"degraded": seen}))[0]
    return task.restore(prediction, picture).values["rgb"]


def planes(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_outputs_of_zero_or_nan_change_nothing(kind: str, dtype: Any, value: float) -> None:
    task, picture = white_balance(transform=kind), photo(dtype=dtype)
    found = answer(task, torch.full((1, task.channels, *SIZE), value), picture)
    assert found.dtype == dtype and np.array_equal(found, picture)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_are_the_untiled_result(kind: str, size: tuple[int, int]) -> None:
    task, picture = white_balance(transform=kind), photo(size, np.float32)
    wanted = task.apply(planes(picture), outputs_of(task))[0].permute(1, 2, 0)
    np.testing.assert_allclose(answer(task, outputs_of(task), picture), wanted, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_are_changed_as_floats_and_rounded(dtype: Any) -> None:
    task, picture, most = white_balance(), photo((40, 30), dtype), np.iinfo(dtype).max
    before = picture.copy()
    found = answer(task, outputs_of(task), picture)
    wanted = answer(task, outputs_of(task), picture.astype(np.float32) / most) * most
    assert found.dtype == dtype and np.abs(found - wanted).max() <= 0.5 + 1e-5 * most
    assert np.array_equal(picture, before), "the given picture was changed"


def test_sixteen_bits_are_seen_as_eight_are() -> None:
    task, picture = white_balance(), photo()
    eight, sixteen = (batch_of(task, {"degraded": p}) for p in (picture, picture.astype(np.uint16) * 257))
    torch.testing.assert_close(eight.inputs["image"], sixteen.inputs["image"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_of_a_cast_undoes_it(kind: Literal["matrix", "polynomial"]) -> None:
    """By hand: entry (i, j) of the inverse, less the identity, is map 3j + i in units of reach."""
    task, truth = white_balance(transform=kind), photo((37, 53), np.float32)
    cast = np.array([[0.9, 0.05, 0.0], [0.05, 0.7, 0.1], [0.0, 0.1, 0.5]], dtype=np.float32)
    maps = torch.zeros(1, task.channels, *SIZE)
    undo = torch.from_numpy(np.linalg.inv(cast) - np.eye(3, dtype=np.float32))
    maps[:, :9] = (undo / task.config.reach).T.reshape(1, 9, 1, 1)
    np.testing.assert_allclose(answer(task, maps, truth @ cast.T), truth, atol=1e-5)


def test_every_term_of_the_polynomial_counts_where_it_should() -> None:
    """One map at a time: term k into one colour, by hand."""
    task, picture = white_balance(transform="polynomial", reach=0.5), 0.5 * photo((9, 11), np.float32)
    for k, term in enumerate(TERMS):
        for color in range(3):
            maps = torch.zeros(1, 27, *SIZE)
            maps[:, 3 * k + color] = 1
            wanted = picture.copy()
            wanted[..., color] += 0.5 * picture[..., list(term)].prod(-1)
            np.testing.assert_allclose(answer(task, maps, picture), wanted, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_fit_undoes_most_of_a_cast(kind: str) -> None:
    task, truth = white_balance(transform=kind), photo((32, 48))
    cast = np.rint(truth * np.array([1.0, 0.7, 0.45])).astype(np.uint8)
    batch = batch_of(task, {"degraded": cast, "image": truth})
    colors = torch.zeros(1, task.channels, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([colors], lr=0.03)
    losses = []
    for _ in range(60):
        loss = torch.stack(list(task.loss(colors.expand(-1, -1, *SIZE), batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0], f"the untouched picture costs {losses[0]:.3f}, the fit still {losses[-1]:.3f}"


def test_strength_leads_from_the_picture_to_the_answer() -> None:
    task, picture = white_balance(), photo(dtype=np.float32)
    none, half, whole = (answer(task.at_strength(s), outputs_of(task, 0.02), picture) for s in (0, 0.5, 1))
    assert np.array_equal(none, picture)
    inside = (whole > 0) & (whole < 1)
    np.testing.assert_allclose(half[inside], ((picture + whole) / 2)[inside], atol=1e-5)


def test_grey_world_is_the_baseline() -> None:
    """A picture that is grey on average, under a cast and half the light, comes back; black ones stay black."""
    task = white_balance()
    truth = np.broadcast_to(photo()[..., :1], (48, 64, 3))
    tinted = np.rint(truth * np.array([0.7, 0.5, 0.3])).astype(np.uint8)
    batch = batch_of(task, {"degraded": tinted, "image": truth})
    found = task.baseline(iter([batch]))(batch)[0].values["rgb"]
    assert np.abs(found.astype(int) - task.truth(batch)[0].values["rgb"]).max() <= 2
    black = batch_of(task, {"degraded": 0 * photo()})
    assert not task.baseline(iter([batch]))(black)[0].values["rgb"].any()


def test_no_loss_is_refused() -> None:
    with pytest.raises(ValidationError, match="give one of them a weight"):
        WhiteBalance.Config(l1=0)
