"""Mixtures: every task gets its share, in an order that depends on nothing but the number of the micro-batch."""

from __future__ import annotations

from collections import Counter

import pytest

from cynosure.data.mixing import Mixture, mixture_weights


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 3, "b": 1}, {"a": 0.2, "b": 0.5, "c": 0.3}, {"only": 7.0}])
def test_every_task_is_always_within_one_batch_of_its_share(weights: dict[str, float]) -> None:
    mixture, counts = Mixture(weights), Counter[str]()
    total = sum(weights.values())
    for number in range(500):
        task, before = mixture[number]
        assert before == counts[task], "a batch is skipped or repeated"
        counts[task] += 1
        for name, weight in weights.items():
            assert abs(counts[name] - (number + 1) * weight / total) < 1


def test_equal_weights_take_turns() -> None:
    mixture = Mixture({"a": 1.0, "b": 1.0, "c": 1.0})
    assert [mixture[i][0] for i in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_the_order_does_not_depend_on_what_was_asked_before() -> None:
    weights = {"a": 0.61, "b": 0.17, "c": 0.22}
    in_order = [Mixture(weights)[i] for i in range(40)]
    mixture = Mixture(weights)
    for number in (39, 0, 17, 17, 18, 5, 39):
        assert mixture[number] == in_order[number]


def test_counts_are_those_of_the_order() -> None:
    mixture = Mixture({"a": 0.61, "b": 0.17, "c": 0.22})
    for number in (0, 1, 7, 40, 3):
        counted = Counter(mixture[i][0] for i in range(number))
        assert mixture.counts(number) == {task: counted[task] for task in "abc"}
        assert mixture[0] == ("a", 0)


def test_rounding_does_not_pull_equal_tasks_apart() -> None:
    mixture, counts = Mixture(dict.fromkeys("abcdefg", 0.1)), Counter[str]()
    for number in range(70_000):
        counts[mixture[number][0]] += 1
    assert set(counts.values()) == {10_000}


def test_a_task_of_weight_zero_is_never_drawn() -> None:
    mixture = Mixture({"a": 0.0, "b": 1.0})
    assert {mixture[i][0] for i in range(10)} == {"b"}


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}])
def test_impossible_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="mixture weights"):
        Mixture(weights)


def test_weights_by_size() -> None:
    given, sizes, ones = {"a": 1.0, "b": 2.0}, {"a": 100, "b": 25}, {"a": 1, "b": 1}
    assert mixture_weights(given, sizes, ones, "weight", 1.0) == given
    assert mixture_weights(given, sizes, ones, "proportional", 1.0) == {"a": 1, "b": 0.5}
    assert mixture_weights(given, sizes, ones, "temperature", 2.0) == {"a": 1, "b": 1}


def test_a_low_temperature_leaves_the_largest() -> None:
    weights = mixture_weights({"a": 1, "b": 1}, {"a": 100_000, "b": 1}, {"a": 1, "b": 1}, "temperature", 0.01)
    assert weights == {"a": 1, "b": 0}


def test_proportional_tasks_finish_an_epoch_together() -> None:
    """Whatever their batch sizes: what is in proportion to the rows are the examples, not the micro-batches."""
    rows, batch = {"a": 1200, "b": 300}, {"a": 4, "b": 10}
    weights = mixture_weights({"a": 1.0, "b": 1.0}, rows, batch, "proportional", 1.0)
    drawn = Counter(Mixture(weights)[i][0] for i in range(330))
    assert {task: drawn[task] * batch[task] for task in rows} == rows


def test_a_high_temperature_levels_sizes() -> None:
    weights = mixture_weights({"a": 1, "b": 1}, {"a": 1_000_000, "b": 1}, {"a": 8, "b": 8}, "temperature", 1e6)
    assert weights["a"] == pytest.approx(weights["b"], rel=1e-4)
