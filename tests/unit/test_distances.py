"""Fréchet and kernel distance against values worked out by hand and against torchmetrics' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cynosure.compat import repair_torchvision
from cynosure_plugins.metrics.distances import (
    FeatureSums,
    Gaussian,
    frechet_distance,
    kernel_distance,
    mean_kernel_distance,
)


def gaussian(mean: list[float], covariance: np.ndarray) -> Gaussian:
    return Gaussian(np.array(mean, dtype=float), np.asarray(covariance, dtype=float))


def of(features: np.ndarray) -> Gaussian:
    return FeatureSums(keep=False).add(features).gaussian()


def random(seed: int, count: int = 60, dim: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim)) + rng.standard_normal(dim)).astype("f4")


def test_frechet_distance_of_known_gaussians() -> None:
    """Diagonal covariances: |mean difference|^2 + sum (s1 - s2)^2, of standard deviations."""
    a, b = gaussian([0, 0], np.diag([4.0, 9.0])), gaussian([3, 4], np.diag([1.0, 25.0]))
    assert frechet_distance(a, b) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 5) ** 2)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = [gaussian(list(turn @ g.mean), turn @ g.covariance @ turn.T) for g in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(30), "no rotation changes it"


def test_frechet_distance_where_covariances_do_not_commute() -> None:
    """In two dimensions trace((A B)^(1/2)) = sqrt(trace(A B) + 2 sqrt(det A det B))."""
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.5], [-0.5, 4.0]])
    cross = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_distance(gaussian([0, 0], a), gaussian([0, 0], b)) == pytest.approx(expected)


def test_equal_sets_have_distance_zero_also_with_fewer_vectors_than_numbers() -> None:
    for count in (60, 4):
        features = random(0, count, dim=12)
        scale = np.trace(of(features).covariance)
        assert frechet_distance(of(features), of(features)) == pytest.approx(0, abs=1e-6 * scale)


def test_frechet_distance_is_that_of_torchmetrics() -> None:
    repair_torchvision()
    from torchmetrics.image.fid import _compute_fid

    for seed, count in ((0, 200), (1, 4)):
        a, b = of(random(seed, count)), of(random(seed + 10, count) + 1)
        tensors = [torch.from_numpy(x) for x in (a.mean, a.covariance, b.mean, b.covariance)]
        assert frechet_distance(a, b) == pytest.approx(float(_compute_fid(*tensors)), rel=1e-4)
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_sums_give_the_mean_and_covariance_of_all_parts() -> None:
    features = random(3, 50) + 100
    parts = FeatureSums(keep=True).add(features[:1]).add(features[1:30]).add(features[30:])
    found = parts.gaussian()
    np.testing.assert_allclose(found.mean, features.astype(float).mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(float), rowvar=False), rtol=1e-6)
    np.testing.assert_array_equal(parts.features, features)


def test_one_vector_has_no_covariance_and_so_no_distance() -> None:
    assert math.isnan(frechet_distance(of(random(0, 1)), of(random(1))))
    assert math.isnan(kernel_distance(random(0, 1), random(1)))
    with pytest.raises(ValueError, match="no features"):
        FeatureSums(keep=False).gaussian()


@pytest.mark.parametrize("count", [7, 8, 9])
def test_sums_of_processes_are_those_of_one_in_the_order_of_the_rows(count: int) -> None:
    features = random(4, count)
    ranks = [FeatureSums(keep=True).add(features[rank::3]) for rank in range(3)]
    whole, merged = FeatureSums(keep=True).add(features), FeatureSums.merged(ranks)
    np.testing.assert_array_equal(merged.features, whole.features)
    np.testing.assert_allclose(merged.gaussian().covariance, whole.gaussian().covariance)
    idle = FeatureSums.merged([FeatureSums(keep=True).add(features[:1]), FeatureSums(keep=True)])
    assert idle.count == 1 and len(idle.features) == 1, "a process without rows has nothing to give"


def test_kernel_distance_by_hand() -> None:
    """One number each: k(a, b) = (a b + 1)^3, of x = {0, 1} and y = {1, 2}."""
    x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    within_x, within_y = 1.0, 27.0  # k(0, 1) and k(1, 2), each pair twice over two ordered pairs
    across = (1 + 1 + 8 + 27) / 4
    assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * across)


def test_kernel_distance_is_that_of_torchmetrics() -> None:
    repair_torchvision()
    from torchmetrics.image.kid import poly_mmd

    x, y = random(0), random(1)
    assert kernel_distance(x, y) == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))), rel=1e-4)


def test_subsets_are_seeded_and_no_larger_than_the_set() -> None:
    x, y = random(0, 30), random(1, 20)
    first = mean_kernel_distance(x, y, subsets=5, size=10, seed=0)
    assert first == mean_kernel_distance(x, y, subsets=5, size=10, seed=0)
    assert first != mean_kernel_distance(x, y, subsets=5, size=10, seed=1)
    mean, deviation = mean_kernel_distance(x, y, subsets=3, size=1000, seed=0)
    assert mean == pytest.approx(kernel_distance(x, y)) and deviation == pytest.approx(0, abs=1e-9 * abs(mean))
