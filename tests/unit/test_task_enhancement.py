"""Enhancement: curves bend the picture itself, in tiles that nobody can tell, and losses survive any picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cynosure.core.contracts import DatasetInfo
from cynosure.core.records import Batch
from cynosure.data.loading import collate
from cynosure.errors import CynosureError, DataError
from cynosure_tasks.curves import apply_curves, apply_curves_tiled
from cynosure_tasks.enhancement import Enhancement
from cynosure_tasks.enhancement_losses import (
    exposure,
    illumination_smoothness,
    spatial_consistency,
    zero_reference,
)
from cynosure_tasks.tiles import reduce_area

SIZE = (16, 24)
RNG = np.random.default_rng(0)
SIZES = [(1, 1), (8, 8), (7, 500), (100, 3), (64, 64), (130, 77), (600, 40)]


def enhancement(**options: Any) -> Enhancement:
    return Enhancement(Enhancement.Config(augment="none", **options), SIZE)


def photo(height: int = 48, width: int = 64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def batch_of(task: Enhancement, *rows: dict[str, Any]) -> Batch:
    return collate("enhancement", [task.prepare(row, RNG, train=False) for row in rows])


def maps(channels: int = 24, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.rand(channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def whole(picture: np.ndarray, curves: torch.Tensor) -> np.ndarray:
    """The untiled path: maps as large as the picture."""
    full = F.interpolate(curves[None], size=picture.shape[:2], mode="bilinear", align_corners=False)
    bent = apply_curves(torch.from_numpy(picture).permute(2, 0, 1)[None], full)
    return bent[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [3, 24])
def test_tiles_are_the_untiled_result(size: tuple[int, int], channels: int) -> None:
    picture = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    for rows in (1, 5, 16):
        tiled = apply_curves_tiled(picture, maps(channels), rows)
        np.testing.assert_allclose(tiled, whole(picture, maps(channels)), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_are_bent_as_floats_and_rounded(dtype: Any) -> None:
    most = np.iinfo(dtype).max
    picture = np.random.default_rng(0).integers(0, most, (40, 30, 3), dtype=dtype, endpoint=True)
    before = picture.copy()
    found = apply_curves_tiled(picture, maps())
    wanted = whole(picture.astype(np.float32) / most, maps()) * most
    assert found.dtype == dtype and np.abs(found - wanted).max() <= 0.5 + 1e-5 * most
    assert np.array_equal(picture, before), "the given picture was changed"


def test_curves_of_zero_change_nothing() -> None:
    assert np.array_equal(apply_curves_tiled(photo(), torch.zeros(24, 8, 8)), photo())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reducing_is_adaptive_average_pooling(size: tuple[int, int]) -> None:
    wanted = F.adaptive_avg_pool2d(torch.from_numpy(photo(*size)).permute(2, 0, 1).float(), SIZE)
    np.testing.assert_allclose(reduce_area(photo(*size), SIZE), wanted.permute(1, 2, 0), atol=1e-4)


def test_answers_have_the_picture_s_own_detail() -> None:
    """What is restored is the curves of the small picture on the large one, not the small answer enlarged."""
    task, picture = enhancement(), photo(150, 200)
    outputs = torch.randn(1, 24, *SIZE)
    prediction = task.restore(task.decode(outputs, batch_of(task, {"degraded": picture}))[0], picture)
    wanted = whole(picture.astype(np.float32) / 255, outputs[0].clamp(-1, 1)) * 255
    np.testing.assert_allclose(prediction.values["rgb"], wanted, atol=0.51)
    assert "maps" not in prediction.meta, "predictions of many pictures would keep all of their curves"


def test_strength_leads_from_the_picture_to_the_answer() -> None:
    picture, outputs = photo() // 4, torch.full((1, 24, *SIZE), -0.3)
    levels = []
    for strength in (0.0, 0.5, 1.0):
        task = enhancement(strength=strength)
        prediction = task.decode(outputs, batch_of(task, {"degraded": picture}))[0]
        levels.append(task.restore(prediction, picture).values["rgb"])
    assert np.array_equal(levels[0], picture)
    assert picture.mean() < levels[1].mean() < levels[2].mean()


def test_a_network_that_has_diverged_leaves_pictures_alone() -> None:
    task = enhancement()
    prediction = task.decode(torch.full((1, 24, *SIZE), torch.nan), batch_of(task, {"degraded": photo()}))[0]
    assert np.array_equal(task.restore(prediction, photo()).values["rgb"], photo())


@pytest.mark.parametrize("formulas", ["coded", "published"])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_even_pictures_have_finite_gradients(formulas: Any, level: int) -> None:
    """Grey, black and white: the norm of no colour difference has no gradient, where a root of zero has an infinite."""
    task = enhancement(reference="zero", formulas=formulas)
    batch = batch_of(task, {"degraded": np.full((48, 64, 3), level, dtype=np.uint8)})
    outputs = torch.zeros(1, 24, *SIZE, requires_grad=True)
    torch.stack(list(task.loss(outputs, batch).values())).sum().backward()
    assert outputs.grad is not None and bool(outputs.grad.isfinite().all())


def test_published_formulas() -> None:
    """By hand: absolute errors, unsigned differences without borders, three colours of one step."""
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 4:] = 0.5
    assert float(exposure(picture, "published")) == pytest.approx(0.6 - 0.25)
    assert float(spatial_consistency(picture.flip(3), picture, "published")) == 0, "the sign of a step counts"
    assert float(spatial_consistency(0 * picture, picture, "published")) == pytest.approx(0.25)
    slope = torch.arange(5.0).expand(1, 24, 5, 5) / 10
    assert float(illumination_smoothness(slope, "published")) == pytest.approx(3 * 0.01)
    weights = Enhancement.Config(reference="zero", formulas="published", color=2.0).weights()
    assert weights == {"spatial": 1.0, "exposure": 1.0, "color": 2.0, "smoothness": 20.0}
    assert set(zero_reference(picture, picture, slope, weights, "published")) == set(weights)


def test_training_moves_picture_and_answer_alike() -> None:
    task = Enhancement(Enhancement.Config(augment="crop"), SIZE)
    row = {"degraded": photo(), "image": photo()}
    for seed in range(8):
        example = task.prepare(row, np.random.default_rng(seed), train=True)
        assert np.array_equal(example.inputs["image"], example.targets["rgb"])
    with pytest.raises(DataError, match="differ in size"):
        task.prepare({"degraded": photo(), "image": photo(20, 20)}, RNG, train=True)


def test_dark_levels_are_not_rounded_away() -> None:
    """The network sees means of levels, which in the dark lie between 0 and 1."""
    picture = photo(160, 240) // 200
    levels = (batch_of(enhancement(), {"degraded": picture}).inputs["image"] + 1) * 127.5
    assert len(levels.unique()) > 20


def test_no_reference_needs_no_answer() -> None:
    info = DatasetInfo(name="dark", fields=("degraded",))
    assert enhancement(reference="zero").fields == ("degraded",)
    assert Enhancement.configure({"reference": "zero"}, info) == {"reference": "zero"}
    with pytest.raises(CynosureError, match="set the task's reference to zero"):
        Enhancement.configure({}, info)


def test_transparency_is_kept(tmp_path: Path) -> None:
    task, alpha = enhancement(), np.full((48, 64), 7, dtype=np.uint8)
    prediction = task.truth(batch_of(task, {"degraded": photo()}))[0]
    prediction = type(prediction)(task, {"rgb": photo()}, meta={"alpha": alpha})
    (file,) = prediction.save(tmp_path / "out")
    assert np.array_equal(np.asarray(Image.open(file)), np.dstack([photo(), alpha]))
