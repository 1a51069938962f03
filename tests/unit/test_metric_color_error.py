"""Colour errors against torchmetrics and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from cynosure.compat import repair_torchvision
from cynosure.core.records import Prediction
from cynosure_plugins.metrics.color_error import ColorError, rgb_to_lab
from cynosure_tasks.colorization import Colorization

TASK = Colorization(Colorization.Config(), (8, 8))


def picture(array: np.ndarray) -> Prediction:
    return Prediction(TASK, {"rgb": array.astype(np.uint8)})


def random(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (9, 7, 3))


def errors(*pairs: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    metric = ColorError(ColorError.Config())
    metric.update([picture(p) for p, _ in pairs], [picture(t) for _, t in pairs])
    return {name: float(value) for name, value in metric.compute().items()}


def test_lab_is_scikit_images() -> None:
    corners = np.array(np.meshgrid([0, 1, 60, 255], [0, 9, 128, 255], [0, 10, 200, 255])).T.reshape(-1, 4, 3)
    colors = corners.astype(np.uint8)
    np.testing.assert_allclose(rgb_to_lab(colors), rgb2lab(colors), atol=0.02)


def test_psnr_is_the_mean_of_torchmetrics_per_picture() -> None:
    repair_torchvision()
    from torchmetrics.functional.image import peak_signal_noise_ratio

    pairs = [(random(0), random(1)), (np.clip(random(2) + 9, 0, 255), random(2))]
    expected = [peak_signal_noise_ratio(*(torch.tensor(a).float() for a in p), data_range=255.0) for p in pairs]
    assert errors(*pairs)["psnr"] == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)


def test_chroma_is_that_of_scikit_images_lab() -> None:
    prediction, truth = (rgb2lab(random(s).astype(np.uint8))[..., 1:] for s in (0, 1))
    found = errors((random(0), random(1)))
    assert found["chroma"] == pytest.approx(np.linalg.norm(prediction, axis=-1).mean(), rel=1e-3)
    assert found["chroma_truth"] == pytest.approx(np.linalg.norm(truth, axis=-1).mean(), rel=1e-3)
    assert found["chroma_error"] == pytest.approx(np.linalg.norm(prediction - truth, axis=-1).mean(), rel=1e-3)
    assert found["chroma_ratio"] == pytest.approx(found["chroma"] / found["chroma_truth"])


def test_grey_answers_have_no_chroma() -> None:
    grey = np.repeat(random(0)[..., :1], 3, axis=-1)
    found = errors((grey, random(1)))
    assert found["chroma"] < 0.01 and found["chroma_ratio"] < 0.01
    assert math.isnan(errors((grey, grey))["chroma_ratio"]), "how vivid, compared with no colour, has no answer"


def test_equal_pictures_do_not_make_the_mean_infinite() -> None:
    assert errors((random(0), random(0)))["psnr"] == 100


def test_no_pictures_is_nan() -> None:
    assert all(math.isnan(value) for value in errors().values())
