"""The scorer that comes along, on true renders that it never saw, and what the metric makes of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cynosure.core.records import Prediction
from cynosure.data.scenes import render_scenes
from cynosure.errors import CheckpointError, CynosureError
from cynosure_plugins.metrics.scene_match import SceneMatch
from cynosure_plugins.metrics.scene_scorer import WEIGHTS, load_scorer
from cynosure_tasks.text_to_image import TextToImage

TASK = TextToImage(TextToImage.Config(), (64, 64))


@pytest.fixture(scope="module")
def scenes() -> dict:
    return render_scenes(77, np.arange(2000), 64)


def score(images: np.ndarray, captions: list[str]) -> dict[str, float]:
    metric = SceneMatch(SceneMatch.Config())
    pairs = zip(images, captions, strict=True)
    predictions = [Prediction(TASK, {"rgb": image}, meta={"caption": caption}) for image, caption in pairs]
    metric.update(predictions, predictions)
    return {name: float(value) for name, value in metric.compute().items()}


def test_true_renders_are_recognised(scenes: dict) -> None:
    found = score(scenes["image"], scenes["caption"])
    assert found["scorable"] == 1
    assert found["objects"] >= 0.97, "a ceiling below this says more of the scorer than of a model"
    assert found["sides"] >= 0.95


def test_clutter_is_told_from_what_was_asked_for(scenes: dict) -> None:
    """Four scenes in one picture show more of any caption, and `chance` says so."""
    found = score(scenes["image"][:200], scenes["caption"][:200])
    assert found["chance"] < 0.05
    four = scenes["image"][:200].reshape(50, 2, 2, 64, 64, 3).transpose(0, 1, 3, 2, 4, 5).reshape(50, 128, 128, 3)
    assert score(four[:, ::2, ::2], scenes["caption"][:50])["chance"] > 2 * found["chance"]
    nothing = score(np.full_like(scenes["image"][:9], 128), scenes["caption"][:9])
    assert nothing["chance"] == 0 == nothing["objects"]


def test_blurred_renders_are_judged_nearly_as_well(scenes: dict) -> None:
    """Reconstructions of a tokenizer are soft."""
    blurred = gaussian_filter(scenes["image"].astype(float), (0, 0.6, 0.6, 0)).round().astype(np.uint8)
    assert score(blurred, scenes["caption"])["objects"] >= 0.95


def test_what_is_not_there_is_refused(scenes: dict) -> None:
    """Captions of other scenes, those that happen to be true left out, and two colours of the scene's own shapes."""
    shown = [{(thing["shape"], thing["color"]) for thing in objects} for objects in scenes["objects"]]
    wrong = [next(c for c in ("cyan", "purple", "red") if ("sphere", c) not in pairs) for pairs in shown]
    found = score(scenes["image"], [f"a {color} sphere" for color in wrong])
    assert found["objects"] <= 0.05


def test_grey_pictures_show_nothing(scenes: dict) -> None:
    found = score(np.full_like(scenes["image"][:20], 128), scenes["caption"][:20])
    assert found["objects"] == 0


def test_free_text_is_counted_and_left_out(scenes: dict) -> None:
    found = score(scenes["image"][:4], [*scenes["caption"][:2], "a dog", "sunrise over the sea"])
    assert found["scorable"] == 0.5
    only = score(scenes["image"][:1], ["a dog"])
    assert only["scorable"] == 0 and math.isnan(only["objects"])


def test_pictures_without_captions_are_an_error(scenes: dict) -> None:
    metric, answer = SceneMatch(SceneMatch.Config()), Prediction(TASK, {"rgb": scenes["image"][0]})
    with pytest.raises(CynosureError, match="text_to_image"):
        metric.update([answer], [answer])


def test_the_weights_are_small_enough_to_come_along() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000


def test_a_missing_scorer_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"benchmarks/scene_scorer\.py` trains it"):
        load_scorer(tmp_path / "gone.safetensors")
