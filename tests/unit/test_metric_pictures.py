"""SSIM, CIEDE2000 and angles against scikit-image, and on pictures that have none."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

from cynosure_plugins.metrics.color_difference import angular_error, delta_e2000
from cynosure_plugins.metrics.color_error import rgb_to_lab
from cynosure_plugins.metrics.ssim import Ssim, ssim


def pair(*size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return first, np.clip(first + rng.normal(0, 40, first.shape), 0, 255).astype(np.uint8)


def test_ssim_is_that_of_scikit_image() -> None:
    first, second = pair(40, 31)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    _, whole = structural_similarity(first, second, channel_axis=2, full=True, **options)
    assert ssim(first, second) == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-9)
    assert ssim(first, first) == 1


def test_pictures_smaller_than_a_window_are_left_out() -> None:
    metric = Ssim(Ssim.Config())
    small, _ = pair(5, 30)
    assert metric.measure({"rgb": small}, {"rgb": small}) == {}
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(small, small)


def test_color_difference_is_that_of_scikit_image() -> None:
    first, second = pair(64, 64)
    first[:4] = second[:4, :, :1] = 90  # greys, whose hue is undefined
    labs = rgb2lab(first), rgb2lab(second)
    np.testing.assert_allclose(delta_e2000(*labs), deltaE_ciede2000(*labs), atol=1e-6)
    ours = delta_e2000(rgb_to_lab(first), rgb_to_lab(second))
    np.testing.assert_allclose(ours, deltaE_ciede2000(*labs), atol=0.02)


def test_angles() -> None:
    colors = np.array([[255, 0, 0], [255, 0, 0], [10, 10, 10], [0, 0, 0]], dtype=np.uint8)
    others = np.array([[0, 255, 0], [255, 255, 0], [200, 200, 200], [9, 0, 0]], dtype=np.uint8)
    np.testing.assert_allclose(angular_error(colors, others), [90, 45, 0, 0], atol=1e-5)
