"""How pictures reach the resolution at which colorization is compared."""

from __future__ import annotations

import numpy as np
import pytest

from cynosure.core.records import Prediction
from cynosure.data.augment import centre_square, resize_area
from cynosure_plugins.metrics.color_error import ColorError
from cynosure_plugins.protocols.colorization_fid import ColorizationFid
from cynosure_tasks.colorization import Colorization

TASK = Colorization(Colorization.Config(), (8, 8))


def protocol(**options) -> ColorizationFid:
    return ColorizationFid(ColorizationFid.Config(network="features.pt", **options), TASK)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_area_resizing_averages_what_a_pixel_covers() -> None:
    line = np.array([[0.0, 10.0, 20.0]])
    np.testing.assert_allclose(resize_area(line, (1, 1)), [[10]])
    np.testing.assert_allclose(resize_area(line, (1, 2)), [[10 / 3, 50 / 3]])  # (0 + 10 / 2) / 1.5
    np.testing.assert_allclose(resize_area(line, (2, 6)), [[0, 0, 10, 10, 20, 20]] * 2)
    rng = np.random.default_rng(0).random((12, 8, 3))
    np.testing.assert_allclose(resize_area(rng, (3, 2)), rng.reshape(3, 4, 2, 4, 3).mean(axis=(1, 3)))


def test_the_model_is_shown_the_centred_square() -> None:
    wide = picture(8, 14)
    np.testing.assert_array_equal(protocol().row({"image": wide})["image"], wide[:, 3:11])
    tall = picture(21, 16)
    np.testing.assert_array_equal(centre_square(tall, 16), tall[2:18])


def test_levels_are_scaled_by_128_on_the_way_in_and_out() -> None:
    """An answer that repeats what it was shown is scored as the picture itself, and PSNR as perfect."""
    rules, row = protocol(size=8), {"image": picture(8, 8)}
    example = rules.example(TASK.prepare(rules.row(row), np.random.default_rng(0), train=False))
    shown = np.moveaxis(example.targets["rgb"], 0, -1)
    np.testing.assert_allclose(shown, row["image"] / 128 - 1, atol=1e-6)
    assert example.inputs["image"].dtype == np.float32
    rgb = np.rint((shown + 1) * 127.5).astype(np.uint8)  # what the task's decode does
    answer, truth = rules.answer(Prediction(TASK, {"rgb": rgb}), row), rules.truth(row)
    assert np.abs(answer.values["scored"].astype(int) - row["image"]).max() <= 1, "rounding twice"
    np.testing.assert_array_equal(truth.values["scored"], row["image"])
    np.testing.assert_array_equal(answer.values["rgb"], truth.values["rgb"])


def test_answers_are_quantised_as_published() -> None:
    """round((y + 1) * 128), clipped to 0..255, of the area average of y."""
    rgb = np.zeros((2, 2, 3), dtype=np.uint8)
    rgb[0] = 255
    rgb[1] = 101
    found = protocol(size=2).answer(Prediction(TASK, {"rgb": rgb}), {}).values["scored"][:, 0, 0].tolist()
    assert found == [255, round(101 / 127.5 * 128)]
    assert protocol(size=1).answer(Prediction(TASK, {"rgb": rgb}), {}).values["scored"][0, 0, 0] == 179  # 178 * 1.0039


def test_psnr_is_of_values_between_minus_one_and_one() -> None:
    """An error of 5.1 levels of 255 is 0.04 of a range of 2: 10 log10(4 / 0.0016)."""
    rules = protocol(size=4)
    truth = rules.truth({"image": np.full((8, 8, 3), 128, dtype=np.uint8)})
    assert np.unique(truth.values["rgb"]).tolist() == [128], "128 / 128 - 1 = 0, half a level from 127.5"
    wrong = Prediction(TASK, {"rgb": truth.values["rgb"] + np.uint8(5)})
    metric = ColorError(ColorError.Config())
    metric.update([rules.answer(wrong, {})], [truth])
    assert float(metric.compute()["psnr"]) == pytest.approx(10 * np.log10(4 / (5 / 127.5) ** 2))
