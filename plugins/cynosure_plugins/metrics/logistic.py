"""Multinomial logistic regression, to measure how much of a label is linear in some features. N samples, F features."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

ITERATIONS = 100
TOLERANCE = 1e-4
"""Largest element of the gradient at which the fit is good enough."""


def null_loss(labels: np.ndarray) -> float:
    """Log-loss of labels [N], in nats, when classes weigh equally and there is nothing to tell them by: log K."""
    return float(np.log(len(np.unique(labels))))


def regression_loss(labels: np.ndarray, features: np.ndarray) -> float:
    """Mean log-loss of labels int [N], in nats, given features [N, F], after a fit to these same samples.

    The fit gives every class the same weight in total and has no penalty; it takes at most 100 steps of L-BFGS from
    zero, in float64, so that a label that can be told exactly gets a loss near 0 in finite time.
    """
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    x, y = torch.from_numpy(features).double(), torch.from_numpy(numbers)
    balance = torch.from_numpy(len(labels) / (len(classes) * counts))
    weight = torch.zeros(features.shape[1], len(classes), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y, balance)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return float(F.cross_entropy(x @ weight + bias, y))
