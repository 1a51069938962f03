"""Depth errors by the NYU protocol: which pixels and pictures count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cynosure.core.records import Prediction
from cynosure_plugins.metrics.depth_error import NAMES, DepthError
from cynosure_tasks.depth import Depth

TASK = Depth(Depth.Config(), (2, 2))


def depth(*values: float) -> Prediction:
    return Prediction(TASK, {"depth": np.array([values], dtype=np.float32)})


def errors(pairs: list[tuple[Prediction, Prediction]], **options: Any) -> dict[str, float]:
    metric = DepthError(DepthError.Config(**options))
    metric.update([p for p, _ in pairs], [t for _, t in pairs])
    return {name: float(value) for name, value in metric.compute().items()}


def test_errors_are_those_of_the_definition() -> None:
    found = errors([(depth(2.0, 3.0), depth(1.0, 3.0))])
    expected = (math.sqrt(0.5), 0.5, math.log10(2) / 2, 0.5, 0.5, 0.5)
    assert list(found.values()) == pytest.approx(expected) and tuple(found) == NAMES


def test_missing_and_out_of_range_pixels_do_not_count() -> None:
    assert errors([(depth(2.0, 7.0, 7.0), depth(2.0, 0.0, 10.0))])["rmse"] == 0
    assert errors([(depth(2.0, 7.0), depth(2.0, 10.0))], max_depth=12)["rmse"] > 0


def test_every_picture_counts_once_whatever_its_pixels() -> None:
    found = errors([(depth(2.0, 2.0, 2.0, 2.0), depth(1.0, 1.0, 1.0, 1.0)), (depth(2.0, 2.0), depth(2.0, 0.0))])
    assert found["rmse"] == pytest.approx(0.5)


def test_pictures_without_depth_are_skipped_and_none_at_all_is_nan() -> None:
    empty = (depth(2.0, 2.0), depth(0.0, 0.0))
    assert errors([empty, (depth(3.0), depth(2.0))])["rmse"] == pytest.approx(1)
    assert all(math.isnan(value) for value in errors([empty]).values())


def test_a_prediction_of_zero_stays_finite() -> None:
    assert math.isfinite(errors([(depth(0.0), depth(2.0))])["log10"])


def _one_of_two(rank: int, address: str, results: Any) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    metric = DepthError(DepthError.Config())
    if rank == 0:
        metric.update([depth(2.0)] * 3, [depth(1.0)] * 3)
    else:
        metric.update([depth(2.0)], [depth(2.0)])
    results.put(float(metric.compute()["rmse"]))
    dist.destroy_process_group()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
def test_processes_of_a_distributed_run_agree_on_all_pictures(tmp_path: Any) -> None:
    """Three pictures with error 1 here and one with error 0 there: .75 everywhere, not .5 and not 1 and 0."""
    context = mp.get_context("fork")
    results = context.SimpleQueue()
    address = f"file://{tmp_path}/rendezvous"
    workers = [context.Process(target=_one_of_two, args=(rank, address, results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0, "a process hung or died"
    assert [results.get(), results.get()] == pytest.approx([0.75, 0.75])
    assert torch.is_tensor(DepthError(DepthError.Config()).compute()["rmse"])
