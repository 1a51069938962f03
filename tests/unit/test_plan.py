"""The demo's plan; the whole demo runs in tests/e2e/test_demo.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cynosure.run import demo, plan


def test_more_time_means_more_scenes_within_bounds() -> None:
    assert demo.scenes_for(1) < demo.scenes_for(3) < demo.scenes_for(10) < demo.scenes_for(60)
    assert demo.scenes_for(600) == demo.scenes_for(6000)


class _Speed:
    steps = {"codes": 0.2, "prior": 0.1, "refit": 0.1}
    encoding, sampling, evaluation, examples = 0.001, 0.002, 0.01, 16

    def __init__(self, session: Any) -> None: ...


def _session(rows: int) -> Any:
    stage = SimpleNamespace(steps=1000)
    train = SimpleNamespace(
        stages=["codes", "prior", "refit"],
        codes=stage,
        prior=SimpleNamespace(steps=1000, views=2),
        refit=SimpleNamespace(steps=500, examples=1000),
    )
    recipe = SimpleNamespace(train=train, tasks={"a": None, "b": None})
    return SimpleNamespace(recipe=recipe, rows=lambda task, split: range(rows))


@pytest.mark.parametrize("rows", [5000, 50_000], ids=["many epochs", "less than one"])
def test_the_plan_fits_and_keeps_the_proportions_of_the_recipe(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle writes codes of what stage `prior` reads, which is never more than all views of all rows."""
    monkeypatch.setattr(plan, "Speed", _Speed)
    found = plan.plan(_session(rows), seconds=600, evaluated=100)
    seconds = sum(_Speed.steps[stage] * count for stage, count in found.steps.items())
    encoded = min(2 * rows * 2, found.steps["prior"] * _Speed.examples)
    seconds += 2 * 100 * _Speed.evaluation + encoded * _Speed.encoding
    seconds += 2 * found.examples * 2 * _Speed.sampling
    assert 590 < seconds < 610, f"planned {seconds:.0f} of 600 seconds"
    assert found.steps["codes"] == found.steps["prior"] == pytest.approx(2 * found.steps["refit"], abs=2)


def test_little_time_still_gives_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "Speed", _Speed)
    found = plan.plan(_session(5000), seconds=1, evaluated=100)
    assert found.steps == {"codes": 10, "prior": 10, "refit": 5}, "the shortest plan is a hundredth of the recipe"
