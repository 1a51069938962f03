"""Distances between two sets of feature vectors: Fréchet (Heusel et al. 2017) and kernel (Bińkowski et al. 2018).

Shapes: N M vectors, d numbers in each. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np


class FeatureSums:
    """Count, sum [d] and sum of outer products [d, d] of features, in float64; and with `keep` the features too."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.count = 0
        self.total: np.ndarray | float = 0.0
        self.outer: np.ndarray | float = 0.0
        self._kept: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> Self:
        """Add features [N, d]; returns itself."""
        wide = features.astype(np.float64)
        self.count += len(wide)
        self.total = self.total + wide.sum(axis=0)
        self.outer = self.outer + wide.T @ wide
        if self.keep:
            self._kept.append(features)
        return self

    @classmethod
    def merged(cls, parts: Sequence[FeatureSums]) -> FeatureSums:
        """The sums of several processes, of which each had every len(parts)-th row; features are in the rows' order."""
        whole = cls(parts[0].keep)
        for part in parts:
            whole.count += part.count
            whole.total = whole.total + part.total
            whole.outer = whole.outer + part.outer
        if whole.keep and whole.count:
            kept = [part.features for part in parts if part.count]
            order = np.argsort(np.concatenate([np.arange(len(k)) * len(kept) + r for r, k in enumerate(kept)]))
            whole._kept = [np.concatenate(kept)[order]]
        return whole

    @property
    def features(self) -> np.ndarray:
        """All features [N, d] in the order in which they were added."""
        return np.concatenate(self._kept)

    def gaussian(self) -> Gaussian:
        """Their mean and unbiased covariance, which is NaN for fewer than two; ValueError where there are none."""
        if not (isinstance(self.total, np.ndarray) and isinstance(self.outer, np.ndarray)):
            raise ValueError("no features were added")
        mean = self.total / self.count
        scatter = self.outer - self.count * np.outer(mean, mean)
        covariance = scatter / (self.count - 1) if self.count > 1 else np.full_like(scatter, np.nan)
        return Gaussian(mean, (covariance + covariance.T) / 2, self.count)


@dataclass(frozen=True)
class Gaussian:
    """`mean` [d] and `covariance` [d, d] of features, of which there were `count` (None: nobody said)."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric square root of the covariance [d, d]; eigenvalues that rounding made negative count as 0."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean difference|^2 + trace(A + B - 2 (A B)^(1/2)), of covariances A and B; NaN where one is not finite.

    The trace of (A B)^(1/2) is that of (B^(1/2) A B^(1/2))^(1/2), whose inside is symmetric and has no negative
    eigenvalue, so that covariances of too few vectors, which are singular, need no correction.
    """
    if not (np.isfinite(a.covariance).all() and np.isfinite(b.covariance).all()):
        return float("nan")
    inside = b.root @ a.covariance @ b.root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((inside + inside.T) / 2), 0)).sum()
    difference = a.mean - b.mean
    return float(difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of x [N, d] and y [M, d]; may be slightly negative.

    The kernel is (x . y / d + 1)^3. NaN for fewer than two vectors.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return float("nan")
    within_x, within_y, across = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    same_x = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    same_y = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(same_x + same_y - 2 * across.mean())


def mean_kernel_distance(x: np.ndarray, y: np.ndarray, subsets: int, size: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of `kernel_distance` over `subsets` random pairs of `size` vectors of each set.

    A set with fewer vectors gives all of them every time.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        pair = [z[rng.choice(len(z), min(size, len(z)), replace=False)] for z in (x, y)]
        found.append(kernel_distance(*pair))
    return float(np.mean(found)), float(np.std(found))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3
