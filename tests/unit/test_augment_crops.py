"""Crops: both laws stay inside picture and ranges; UViM's draws smaller ones, and `resize: uvim` chooses it."""

from __future__ import annotations

import numpy as np
import pytest

from cynosure.data.augment import AREA, ASPECT, inception_box, uvim_box, view

SIZE = (480, 640)


def crops(law, size: tuple[int, int] = SIZE, count: int = 3000) -> np.ndarray:  # type: ignore[no-untyped-def]
    """(top, left, rows, columns) of every crop."""
    rng = np.random.default_rng(0)
    boxes = [law(size, rng) for _ in range(count)]
    return np.array([(r.start, c.start, r.stop - r.start, c.stop - c.start) for r, c in boxes])


@pytest.mark.parametrize("law", [inception_box, uvim_box])
def test_crops_lie_in_the_picture_and_keep_to_their_ranges(law) -> None:  # type: ignore[no-untyped-def]
    top, left, rows, columns = crops(law).T
    assert top.min() == 0 and left.min() == 0, "no crop touches the border"
    assert (top + rows).max() == SIZE[0] and (left + columns).max() == SIZE[1]
    aspect, share = columns / rows, rows * columns / (SIZE[0] * SIZE[1])
    assert ASPECT[0] * 0.98 < aspect.min() and aspect.max() < ASPECT[1] * 1.02
    assert AREA[0] * 0.99 < share.min() < 0.06 and share.max() > 0.9


def test_uvims_crops_are_as_small_as_those_that_tensorflow_draws() -> None:
    """Of 40,000 crops of 480 x 640 that it draws the mean keeps .34 of the area, half less than .30, 42 % a quarter."""
    share = crops(uvim_box)[:, 2:].prod(axis=1) / (SIZE[0] * SIZE[1])
    assert share.mean() == pytest.approx(0.34, abs=0.015)
    assert np.median(share) == pytest.approx(0.30, abs=0.02)
    assert (share < 0.25).mean() == pytest.approx(0.42, abs=0.03)


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("law", [inception_box, uvim_box])
def test_pictures_that_no_crop_fits_stay_whole_or_are_cut_inside(law, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    top, left, rows, columns = crops(law, size, 20).T
    assert (rows > 0).all() and (columns > 0).all()
    assert ((top + rows) <= size[0]).all() and ((left + columns) <= size[1]).all()


def test_the_way_of_resizing_says_which_law_crops() -> None:
    picture = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3))  # every row has its number
    kept = {}
    for resize in ("antialias", "uvim"):
        rng = np.random.default_rng(0)
        views = [view(picture, None, (8, 8), rng, "inception", resize)[0].astype(int) for _ in range(300)]
        kept[resize] = np.mean([each[-1, 0, 0] - each[0, 0, 0] for each in views])
    assert kept["uvim"] < 0.95 * kept["antialias"]
