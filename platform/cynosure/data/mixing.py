"""Which task a micro-batch belongs to: a pure function of its number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal


class Mixture:
    """Tasks interleaved as evenly as their weights allow (smooth weighted round robin, no randomness).

    After any number of micro-batches every task is within one batch of its share, so a small optimizer step sees all
    tasks, and a run resumes from its step number alone.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"mixture weights must be 0 or more and not all 0, not {dict(weights)}")
        total = sum(weights.values())
        self.shares = {task: weight / total for task, weight in weights.items() if weight > 0}
        self._restart()

    def __getitem__(self, number: int) -> tuple[str, int]:
        """The task of micro-batch `number`, and how many batches of that task came before it.

        Costs one step when numbers rise by one, as they do in training; going back starts the count anew.
        """
        if number < self._drawn - 1:
            self._restart()
        while self._drawn <= number:
            self._draw()
        return self._last, self._counts[self._last] - 1

    def counts(self, number: int) -> dict[str, int]:
        """How many of the first `number` micro-batches are of each task."""
        self._restart()
        while self._drawn < number:
            self._draw()
        return dict(self._counts)

    def _restart(self) -> None:
        self._credit = dict.fromkeys(self.shares, 0.0)
        self._counts = dict.fromkeys(self.shares, 0)
        self._drawn, self._last = 0, ""

    def _draw(self) -> None:
        for task, share in self.shares.items():
            self._credit[task] += share
        # Rounding makes ties of what floating point has pulled apart; the first task wins them.
        self._last = max(self._credit, key=lambda task: round(self._credit[task], 9))
        self._credit[self._last] -= 1.0
        self._counts[self._last] += 1
        self._drawn += 1


def mixture_weights(
    weights: Mapping[str, float],
    sizes: Mapping[str, int],
    batch_sizes: Mapping[str, int],
    by: Literal["weight", "temperature", "proportional"],
    temperature: float,
) -> dict[str, float]:
    """How often each task's micro-batches come: as given; or so that its examples, of which a micro-batch has
    `batch_sizes`, come in proportion to the rows it has, `sizes`, or to sizes ** (1 / temperature).

    Given weights always multiply.
    """
    if by == "weight":
        return dict(weights)
    power = 1.0 if by == "proportional" else 1.0 / temperature
    largest = max(sizes.values())  # shares do not depend on it, but small temperatures would overflow
    return {task: weight * (sizes[task] / largest) ** power / batch_sizes[task] for task, weight in weights.items()}
