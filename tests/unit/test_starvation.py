"""Warnings of starving tasks: said where one starves, and only there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

from cynosure_plugins.callbacks.starvation import Supply, Watch

LINES = 130
Curve = Callable[[np.ndarray], np.ndarray]


def falling(start: float, end: float, rate: float = 8.0) -> Curve:
    return lambda time: end + (start - end) * np.exp(-rate * time)


def rises_again(time: np.ndarray) -> np.ndarray:
    """Learns, and is then unlearnt for the others' sake."""
    return np.where(time < 0.4, falling(1.2, 0.3, 15)(time), 0.3 * (1 + (time - 0.4)))


HEALTHY = {"panoptic": falling(5, 0.3), "depth": falling(1.2, 0.09, 15), "colorization": falling(1.1, 0.3, 6)}


def watch(tasks: Mapping[str, Curve], **changes: object) -> Watch:
    supplies = {task: Supply(examples=1e5, share=1 / len(tasks), rows=1000, codes=64) for task in tasks}
    given = {"stage": "codes", "steps": LINES * 10, "log_every": 10, "warmup": 60, "supplies": supplies}
    return Watch(**{**given, **changes})  # type: ignore[arg-type]


def lines(tasks: Mapping[str, Curve], seed: int, noise: float = 0.1) -> Iterator[tuple[int, dict[str, float]]]:
    """The log of a stage whose losses follow the curves, with noise from line to line."""
    rng = np.random.default_rng(seed)
    time = np.arange(LINES) / LINES
    losses = {task: curve(time) * np.exp(noise * rng.standard_normal(LINES)) for task, curve in tasks.items()}
    for i in range(LINES):
        yield 10 * (i + 1), {"lr": 1e-3, **{f"{task}/loss": float(values[i]) for task, values in losses.items()}}


def found(tasks: Mapping[str, Curve], seed: int, noise: float = 0.1) -> list[tuple[int, str, str]]:
    """(step, task, cause) of everything that is said."""
    watching = watch(tasks)
    return [(step, f.task, f.cause) for step, logs in lines(tasks, seed, noise) for f in watching.add(step, logs)]


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_nothing_is_said_of_tasks_that_learn_and_then_level_off(noise: float) -> None:
    said = [found(HEALTHY, seed, noise) for seed in range(40)]
    assert sum(map(bool, said)) <= 1, f"false alarms: {[s for s in said if s]}"


def test_a_task_that_does_not_learn_is_named_before_the_stage_is_half_over() -> None:
    for seed in range(20):
        first = found({**HEALTHY, "edges": lambda time: np.full_like(time, 1.2)}, seed, 0.05)[0]
        assert first[1:] == ("edges", "does not learn") and first[0] <= LINES * 10 / 2


def test_a_task_that_gets_worse_is_named() -> None:
    said = [found({**HEALTHY, "edges": rises_again}, seed, 0.05) for seed in range(20)]
    assert all({(task, cause) for _, task, cause in each} == {("edges", "gets worse")} for each in said)


def test_all_getting_worse_together_is_no_starving() -> None:
    """As when the codebook begins, or the learning rate is too high: no task takes from another."""
    for seed in range(20):
        assert not found({"a": rises_again, "b": rises_again, "c": rises_again}, seed, 0.05)


def test_a_task_alone_cannot_starve() -> None:
    assert not found({"depth": lambda time: np.full_like(time, 1.2)}, 0)


def test_tasks_that_were_learnt_before_need_not_begin_to_learn() -> None:
    """A run that starts from another: the old tasks are near their end already."""
    tasks = {**HEALTHY, "old": lambda time: np.full_like(time, 0.1)}
    watching = watch(tasks, learnt=True)
    assert not [f for step, logs in lines(tasks, 0) for f in watching.add(step, logs)]


@pytest.mark.parametrize("every", [4, 6, 13, 100])
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_nothing_is_said_of_a_task_that_most_lines_are_without(every: int, noise: float) -> None:
    """One or two values say nothing of how certain their mean is."""
    tasks = {**HEALTHY, "rare": falling(1.2, 0.3)}
    for seed in range(20):
        watching = watch(tasks)
        for step, logs in lines(tasks, seed, noise):
            seen = {name: value for name, value in logs.items() if name != "rare/loss" or step // 10 % every == 0}
            assert not list(watching.add(step, seen))


# --- examples


@pytest.mark.parametrize(
    ("supply", "said"),
    [
        (Supply(examples=480, share=0.01, rows=4000), "1.0% of the examples of stage codes, 480 of its 4000 rows"),
        (Supply(examples=480, share=0.01, rows=None), "1.0% of the examples of stage codes, 480 in all"),
        (Supply(examples=480, share=0.01, rows=400), ""),
        (Supply(examples=480, share=0.2, rows=4000), ""),
    ],
    ids=["too few", "too few of a stream", "few, but all that there are", "enough"],
)
def test_a_task_that_will_hardly_be_seen_is_named_before_the_first_step(supply: Supply, said: str) -> None:
    enough = Supply(examples=1e5, share=1 - supply.share, rows=1000)
    texts = [f.text for f in watch({}, supplies={"rare": supply, "usual": enough}).hardly_seen()]
    assert len(texts) == bool(said) and all(said in text and "rare" in text for text in texts)


# --- codes


def collapse(used: float, distinct: float = 1.0) -> set[str]:
    watching, said = watch(HEALTHY, vocab_size=256), []
    for step, logs in lines(HEALTHY, 0):
        said += list(watching.add(step, {**logs, **{f"{task}/codes_used": used for task in HEALTHY}}))
    said += list(watching.add(1300, {f"eval/{task}/oracle/codes/distinct": distinct for task in HEALTHY}))
    return {f.task for f in said if f.cause.startswith("has the same codes")}


def test_collapsed_codes_are_named() -> None:
    assert collapse(used=2 / 256) == set(HEALTHY), "64 codes of a batch, two different ones"
    assert collapse(used=13 / 256) == set(), "the fewest that an ordinary run shows"
    assert collapse(used=13 / 256, distinct=0.01) == set(HEALTHY), "every picture has the same codes"


def test_codes_are_no_matter_where_there_are_none() -> None:
    watching = watch(HEALTHY, vocab_size=0)
    for step, logs in lines(HEALTHY, 0):
        assert not list(watching.add(step, {**logs, "depth/codes_used": 0.0}))
