"""The comparison of one model with many: equal examples, steps and codebook memory, and a table that hides nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cynosure.config.recipe import load_recipe


@pytest.fixture(scope="module")
def unified() -> ModuleType:
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "unified.py"
    spec = importlib.util.spec_from_file_location("unified_benchmark", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_single_models_see_a_task_as_the_unified_one_does(unified: ModuleType) -> None:
    whole = load_recipe(unified.RECIPE, unified.settings(load_recipe(unified.RECIPE), 0.5, 3))
    assert whole.seed == 3 and whole.train.codes.steps == load_recipe(unified.RECIPE).train.codes.steps // 2
    memory = sum(use.batch_size for use in whole.tasks.values()) / (1 - whole.model.tokenizer["quantizer"]["decay"])
    for task, use in whole.tasks.items():
        alone = load_recipe(unified.RECIPE, [*unified.settings(whole, 1, 3), *unified.alone(whole, task)])
        assert list(alone.tasks) == [task] and alone.tasks[task] == use.model_copy(
            update={"loss_weight": 1.0, "prior_weight": 1.0}
        )
        remembered = use.batch_size / (1 - alone.model.tokenizer["quantizer"]["decay"])
        assert remembered == pytest.approx(memory, rel=0.01), "the codebook must remember equally many vectors"
        for stage in unified.STAGES:
            one, all_three = getattr(alone.train, stage), getattr(whole.train, stage)
            assert one.model_dump() == all_three.model_dump() | {"accumulate": 1} and all_three.accumulate == 3


def measured(parameters: int, **tasks: dict[str, float | None]) -> dict[str, Any]:
    columns = ("prior", "oracle", "none", "baseline")
    found = {task: {"rows": 8, "metrics": dict.fromkeys(columns, metrics)} for task, metrics in tasks.items()}
    return {"parameters": parameters, "tasks": found}


def test_the_table_says_what_is_kept_and_what_is_missed(unified: ModuleType) -> None:
    whole = measured(10, depth={"rmse": 0.5, "d1": 0.97, "d3": 1.0}, panoptic={"pq": 0.6, "pq/sky": 0.9})
    single = {"depth": measured(9, depth={"rmse": 0.4, "d1": 0.97}), "panoptic": measured(9, panoptic={"pq": None})}
    rows = list(unified.rows(whole, single))
    assert {(row["task"], row["metric"]): row["kept"] for row in rows} == {
        ("depth", "rmse"): pytest.approx(0.8),
        ("depth", "d1"): 1.0,
        ("panoptic", "pq"): None,
    }
    text = unified.table(
        {
            "seed": 0,
            "steps": {"codes": 5},
            "rows": 8,
            "parameters": {"unified": 10, "single": {"depth": 9, "panoptic": 9}},
            "metrics": rows,
        }
    )
    assert "| depth | rmse ↓ | 0.500 / 0.400 |" in text and "| 80.0% |" in text
    assert "all but rmse, pq" in text and "(56%)" in text
