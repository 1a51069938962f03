"""Mutual information of a discrete variable with a discrete or a real one. In nats; N samples; float64 throughout."""

from __future__ import annotations

import numpy as np
import torch

NEIGHBORS = 10
JITTER = 1e-10
"""Size of the noise that parts equal values, relative to the mean size of a variable (Kraskov et al. 2004)."""


def entropy(labels: np.ndarray) -> float:
    """Of discrete labels [N]."""
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum())


def discrete_information(a: np.ndarray, b: np.ndarray) -> float:
    """Of two discrete variables [N], from the counts of their pairs; biased upwards when pairs are rare."""
    (rows, a), (columns, b) = (np.unique(x, return_inverse=True) for x in (a, b))
    pairs = np.zeros((len(rows), len(columns)))
    np.add.at(pairs, (a, b), 1 / len(a))
    alone = pairs.sum(axis=1, keepdims=True) * pairs.sum(axis=0, keepdims=True)
    seen = pairs > 0
    return max(0.0, float((pairs[seen] * np.log(pairs[seen] / alone[seen])).sum()))


def jittered(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Real values [N] at unit variance, no two of them equal."""
    values = values.astype(np.float64)
    deviation = values.std()
    scaled = values / (deviation if deviation > 0 else 1.0)
    return scaled + JITTER * max(1.0, float(np.abs(scaled).mean())) * rng.standard_normal(len(scaled))


def continuous_information(labels: np.ndarray, values: np.ndarray, neighbors: int = NEIGHBORS) -> float:
    """Of discrete labels [N] and real values [N] of which no two are equal (see `jittered`), by nearest neighbours.

    Ross 2014, "Mutual information between discrete and continuous data sets", with at most `neighbors` in a
    sample's own class; classes of one sample are left out. NaN where no others are. Negative estimates become 0.
    """
    radius, near, size = np.zeros(len(values)), np.zeros(len(values)), np.zeros(len(values))
    for label in np.unique(labels):
        own = labels == label
        size[own] = count = int(own.sum())
        if count > 1:
            near[own] = k = min(neighbors, count - 1)
            radius[own] = np.nextafter(_neighbor_distance(values[own], k), 0)
    kept = size > 1
    if not kept.any():
        return float("nan")
    within = _count_within(values[kept], radius[kept])
    means = [float(torch.digamma(torch.from_numpy(x)).mean()) for x in (near[kept], size[kept], within)]
    total = float(torch.digamma(torch.tensor(float(kept.sum()), dtype=torch.float64)))
    return max(0.0, total + means[0] - means[1] - means[2])


def _neighbor_distance(values: np.ndarray, k: int) -> np.ndarray:
    """Distance [N] of every one of the values [N] to its k-th nearest other; in one dimension a matter of sorting."""
    order = np.argsort(values, kind="stable")
    ends = np.full(k, np.inf)
    padded = np.concatenate([-ends, values[order], ends])
    shifts = [s for s in range(-k, k + 1) if s]
    others = np.stack([padded[k + s : k + s + len(values)] for s in shifts])
    distances = np.empty(len(values))
    distances[order] = np.partition(np.abs(others - values[order]), k - 1, axis=0)[k - 1]
    return distances


def _count_within(values: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How many of the values [N] are within `radius` [N] of each, itself included; float64 [N].

    The borders are corrected by the distances themselves: rounding of a sum must not let the k-th neighbour in.
    """
    ordered = np.concatenate([[-np.inf], np.sort(values), [np.inf]])

    def border(start: np.ndarray, step: int) -> np.ndarray:
        """The last place within the radius in the direction `step`, found from nearby."""
        last = start.clip(1, len(values))
        while (outside := np.abs(ordered[last] - values) > radius).any():
            last = last - step * outside
        while (further := np.abs(ordered[last + step] - values) <= radius).any():
            last = last + step * further
        return last

    low = border(np.searchsorted(ordered, values - radius, "left"), -1)
    high = border(np.searchsorted(ordered, values + radius, "right") - 1, 1)
    return (high - low + 1).astype(np.float64)
