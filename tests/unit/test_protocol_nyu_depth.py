"""The evaluation crop of NYU Depth v2, and errors of frames worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cynosure.core.records import Prediction
from cynosure.errors import DataError
from cynosure_plugins.metrics.depth_error import DepthError
from cynosure_plugins.protocols.nyu_depth import NyuDepth
from cynosure_tasks.depth import Depth

TASK = Depth(Depth.Config(), (32, 32))
GOLDEN = Path(__file__).parents[1] / "golden" / "uvim" / "preprocess.npz"


def protocol(**options) -> NyuDepth:
    return NyuDepth(NyuDepth.Config(**options), TASK)


def frame(depth: float = 2.0, size: tuple[int, int] = (480, 640)) -> dict:
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.stack([rows // 2, columns // 3, rows * 0], axis=-1).astype(np.uint8)
    return {"image": image, "depth": np.full(size, depth, dtype=np.float32)}


def scores(*pairs: tuple[np.ndarray, dict]) -> dict[str, float]:
    rules = protocol()
    metric = DepthError(DepthError.Config(**rules.metrics()["depth_error"]))
    for depth, row in pairs:
        metric.update([rules.answer(Prediction(TASK, {"depth": depth}), row)], [rules.truth(row)])
    return {name: float(value) for name, value in metric.compute().items()}


def test_the_model_is_shown_the_crop_of_the_published_code() -> None:
    arrays = np.load(GOLDEN)
    first, last, left, right = arrays["nyu_crop/rows_cols"].tolist()
    row = frame()
    row["depth"] = np.arange(480 * 640, dtype=np.float32).reshape(480, 640)
    shown = protocol().row(row)
    assert shown["depth"].shape == tuple(arrays["nyu_crop/shape"]) == shown["image"].shape[:2]
    assert shown["depth"][0, 0] == row["depth"][first, left] and shown["depth"][-1, -1] == row["depth"][last, right]
    np.testing.assert_array_equal(shown["image"], row["image"][first : last + 1, left : right + 1])
    assert row["image"].shape == (480, 640, 3), "the dataset's row stays whole"


def test_the_customary_crop_begins_nine_rows_higher() -> None:
    row = frame()
    row["depth"] = np.arange(480 * 640, dtype=np.float32).reshape(480, 640)
    shown = protocol(crop="eigen").row(row)["depth"]
    assert shown.shape == (426, 560) and shown[0, 0] == row["depth"][45, 41] and shown[-1, -1] == row["depth"][470, 600]


def test_answers_return_to_the_crop_by_nearest_neighbours() -> None:
    answer = protocol().answer(Prediction(TASK, {"depth": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}), frame())
    depth = answer.values["depth"]
    assert depth.shape == (426, 560)
    assert np.unique(depth).tolist() == [1, 2, 3, 4], "no depth in between"
    assert depth[212, 279] == 1 and depth[213, 280] == 4


def test_errors_are_of_each_frame_and_then_averaged() -> None:
    """One frame at twice the depth, one exact with a single valid pixel: each counts the same."""
    few = frame(0.0)
    few["depth"][100, 100] = 4.0
    four = np.full((32, 32), 4.0, dtype=np.float32)
    found = scores((four, frame(2.0)), (four, few))
    assert found["rmse"] == pytest.approx((2 + 0) / 2)
    assert found["abs_rel"] == pytest.approx((1 + 0) / 2)
    assert found["log10"] == pytest.approx(np.log10(2) / 2)
    assert [found[f"d{i}"] for i in (1, 2, 3)] == [0.5, 0.5, 0.5], "2 is beyond 1.25 ** 3"


def test_only_depths_between_a_millimetre_and_ten_metres_count_and_only_inside_the_crop() -> None:
    row = frame(2.0)
    row["depth"][:54] = 9.0
    row["depth"][54, :] = 10.0
    row["depth"][55, :] = 0.001
    row["depth"][56, :] = 0.0
    assert scores((np.full((32, 32), 2.0, dtype=np.float32), row))["rmse"] == 0


def test_frames_of_another_size_are_refused_with_advice() -> None:
    with pytest.raises(DataError, match=r"240 x 320 .* 480 x 640.*size: null"):
        protocol().row(frame(size=(240, 320)))
