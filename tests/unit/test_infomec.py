"""What users of InfoMEC rely on beyond the published numbers: ids for values, when a number is undefined, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cynosure.errors import CynosureError
from cynosure_plugins.metrics.infomec import active_latents, gini, infomec
from cynosure_plugins.metrics.mutual_information import continuous_information, discrete_information, jittered

SIZES = (4, 3, 5)


def grid(repeats: int = 5) -> np.ndarray:
    """Every combination of three sources, equally often: they share no information at all."""
    return np.tile(np.indices(SIZES).reshape(3, -1).T, (repeats, 1))


def test_a_perfect_code_gets_ones_from_ids_and_from_values() -> None:
    sources = grid()
    for latents in (sources, sources / 7 - 0.5):
        found = infomec(sources, latents, discrete=True)
        numbers = (found.modularity, found.explicitness, found.compactness)
        assert numbers == pytest.approx((1, 1, 1), abs=1e-2)


def test_a_rotated_code_is_explicit_but_not_modular() -> None:
    """Sums and differences of two sources tell both, each mixes them."""
    a, b = grid()[:, 0], grid()[:, 2]
    found = infomec(np.stack([a, b], 1), np.stack([a + b, a - b], 1))
    assert found.modularity < 0.2 < found.explicitness


def test_integers_are_discrete_and_floats_are_not() -> None:
    sources = grid()
    by_default = infomec(sources, sources.astype(float)).nmi
    assert np.array_equal(by_default, infomec(sources, sources.astype(float), discrete=False).nmi)
    assert not np.array_equal(by_default, infomec(sources, sources).nmi)


def test_the_same_seed_gives_the_same_numbers() -> None:
    sources = grid()
    latents = sources + np.random.default_rng(0).standard_normal(sources.shape)
    first, again = (infomec(sources, latents, seed=3) for _ in range(2))
    assert np.array_equal(first.nmi, again.nmi) and first.explicitness == again.explicitness


def test_what_is_undefined_is_nan() -> None:
    sources = grid()
    constant = np.zeros_like(sources)
    found = infomec(sources, constant)
    assert not found.active.any()
    assert np.isnan([found.modularity, found.compactness]).all(), "no active latent"
    assert found.explicitness == pytest.approx(0, abs=1e-6), "constant latents explain nothing, which is a number"
    lonely = np.concatenate([sources[:, :1], constant[:, 1:]], axis=1)
    assert np.isnan(infomec(sources, lonely).compactness), "one active latent"
    assert np.isnan(infomec(sources[:, :1], sources).modularity), "one source"
    still = np.concatenate([sources, constant[:, :1]], axis=1)
    found = infomec(still, sources)
    assert np.isnan([found.modularity, found.explicitness, found.compactness]).all(), "a source that never changes"


def test_rules_of_activity() -> None:
    latents = np.array([[0.0, 0.0, 5.0], [0.02, 0.0, 5.0], [1.0, 0.0, 5.0], [0.98, 0.0, 5.01]])
    latents = np.repeat(latents, 25, axis=0)
    latents[0, 1] = 1.0
    assert active_latents(latents, discrete=True).tolist() == [True, True, True]
    assert active_latents(latents, discrete=False).tolist() == [True, True, False]
    assert active_latents(latents, discrete=True, rule="tripod").tolist() == [True, False, False]


def test_information_of_real_latents_is_near_the_truth() -> None:
    """Two Gaussians far apart tell the class, log 2 nats; one Gaussian for both tells nothing; equal values count."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    noise = rng.standard_normal(2000)
    assert continuous_information(labels, noise + 20 * labels) == pytest.approx(np.log(2), abs=2e-2)
    assert continuous_information(labels, noise) == pytest.approx(0, abs=2e-2)
    coarse = np.round(noise + 20 * labels)
    assert continuous_information(labels, jittered(coarse, rng)) == pytest.approx(np.log(2), abs=2e-2)
    assert np.isnan(continuous_information(np.arange(9), noise[:9])), "every class has one sample"


def test_counting_neighbours_is_exact() -> None:
    """Against the definition, over all pairs."""
    rng = np.random.default_rng(1)
    labels, values = rng.integers(0, 3, 200), jittered(np.round(rng.standard_normal(200), 1), rng)

    near, size, within = [], [], []
    for label, value in zip(labels, values, strict=True):
        own = np.sort(np.abs(values[labels == label] - value))
        k = min(10, len(own) - 1)
        near.append(k)
        size.append(len(own))
        within.append(np.sum(np.abs(values - value) < own[k]))

    def digamma(values: object) -> np.ndarray:
        return torch.special.digamma(torch.as_tensor(values, dtype=torch.float64)).numpy()

    wanted = digamma(len(labels)) + np.mean(digamma(near)) - np.mean(digamma(size)) - np.mean(digamma(within))
    assert continuous_information(labels, values) == pytest.approx(max(0, wanted), abs=1e-12)


def test_information_of_discrete_latents_does_not_depend_on_their_names() -> None:
    a, b = grid()[:, 0], grid().sum(axis=1)
    assert discrete_information(a, b) == pytest.approx(discrete_information(a * 7 - 3, b / 3), abs=1e-12)


def test_gini_without_a_sum_is_undefined() -> None:
    assert np.isnan(gini(np.zeros(3))) and np.isnan(gini(np.ones(1)))


@pytest.mark.parametrize(
    ("sources", "latents", "message"),
    [
        (np.zeros((4, 2), int), np.zeros((5, 2)), "same samples"),
        (np.zeros((4, 2)), np.zeros((4, 2)), "integer sources"),
        (np.zeros((4, 2), int), np.full((4, 2), np.nan), "finite"),
    ],
)
def test_wrong_arrays_are_named(sources: np.ndarray, latents: np.ndarray, message: str) -> None:
    with pytest.raises(CynosureError, match=message):
        infomec(sources, latents)
