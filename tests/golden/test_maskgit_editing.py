"""Editing as MaskGIT does it: which codes a box frees, and how what is new meets the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cynosure.run.editing import blurred, with_margin
from cynosure.run.steering import box_mask, touched_cells

MARGIN_AROUND = (0, 1, 2)
"""Boxes that end at the edge of a cell; of box 3 the published margin lacks the lower and right side."""


@pytest.fixture(scope="module")
def arrays(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "maskgit" / "edit.npz"))


def free_cells(arrays: dict[str, np.ndarray], number: int) -> tuple[np.ndarray, np.ndarray]:
    """What an edit of the box frees, and what it frees as published, both bool [rows, columns]."""
    top, left, height, width = arrays[f"box{number}"].tolist()
    published = arrays[f"latent_mask{number}"].astype(bool)
    size = arrays["image"].shape[:2]
    chosen = with_margin(box_mask((left, top, left + width, top + height), size), published.shape)
    return touched_cells(chosen, published.shape), published


@pytest.mark.parametrize("number", MARGIN_AROUND)
def test_codes_that_a_box_frees(arrays: dict[str, np.ndarray], number: int) -> None:
    found, published = free_cells(arrays, number)
    assert np.array_equal(found, published)


def test_a_box_within_a_cell_has_its_margin_on_all_sides(arrays: dict[str, np.ndarray]) -> None:
    found, published = free_cells(arrays, 3)
    assert found[published].all() and published.sum() == 4 and found.sum() == 9


def test_the_new_is_blended_into_the_picture(arrays: dict[str, np.ndarray]) -> None:
    image, generated = arrays["image"], arrays["generated"]
    share = blurred(arrays["latent_mask0"].astype(bool), image.shape[:2])[..., None]
    composite = share * generated + (1 - share) * image
    np.testing.assert_allclose(composite[:, ::4, ::4], arrays["composite0"], atol=1 / 255 + 1e-3, rtol=0)
