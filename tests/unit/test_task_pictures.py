"""Generation and text to image: pictures made from labels, captions or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cynosure.core.contracts import DatasetInfo
from cynosure.core.records import Batch
from cynosure.data.loading import collate
from cynosure.errors import CynosureError, DataError
from cynosure_tasks.generation import Generation
from cynosure_tasks.pictures import PictureTask, centre_crop
from cynosure_tasks.text_to_image import TextToImage

CLASSES = ("cat", "dog", "horse")


def photo(height: int = 8, width: int = 8, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labelled(size: tuple[int, int] = (8, 8), **options: Any) -> Generation:
    return Generation(Generation.Config(condition="label", classes=CLASSES, augment="none", **options), size)


def batch_of(task: PictureTask, *rows: dict[str, Any], train: bool = False) -> Batch:
    return collate(task.name, [task.prepare(row, np.random.default_rng(0), train) for row in rows])


def test_perfect_outputs_give_the_picture_back() -> None:
    task = labelled()
    batch = batch_of(task, {"image": photo(), "label": 2})
    assert task.loss(batch.targets["rgb"], batch) == {"l2": 0}
    for predictions in (task.decode(task.encode_targets(batch), batch), task.truth(batch)):
        np.testing.assert_array_equal(predictions[0].values["rgb"], photo())


def test_losses_have_their_weights() -> None:
    batch = batch_of(labelled(), {"image": np.full((8, 8, 3), 255, np.uint8), "label": 0})
    zeros = torch.zeros(1, 3, 8, 8)
    losses = labelled(l1=2.0, l2=0.5).loss(zeros, batch)
    assert {name: float(value) for name, value in losses.items()} == {"l1": 2.0, "l2": 0.5}
    assert set(labelled(l1=1.0, l2=0.0).loss(zeros, batch)) == {"l1"}
    with pytest.raises(ValueError, match="l1, l2 and cross_entropy are all 0"):
        labelled(l2=0.0)


def test_outputs_may_be_logits_of_pixels() -> None:
    """As QLAE is trained: what is small for the right picture, shown by the sigmoid."""
    task = labelled(l2=0.0, cross_entropy=0.5)
    batch = batch_of(task, {"image": photo(), "label": 2})
    shares = task.encode_targets(batch)
    assert shares.min() >= 0 and shares.max() <= 1
    logits = torch.logit(shares, eps=1e-6).requires_grad_()
    loss = task.loss(logits, batch)["cross_entropy"]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-6, "another picture would be better"
    entropy = -(torch.xlogy(shares, shares) + torch.xlogy(1 - shares, 1 - shares)).mean()
    torch.testing.assert_close(loss, 0.5 * entropy, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(task.decode(logits, batch)[0].values["rgb"], photo())
    torch.testing.assert_close(
        labelled(l2=1.0, cross_entropy=1.0).loss(torch.zeros_like(shares), batch)["l2"],
        batch.targets["rgb"].square().mean(),
    )


def test_answers_know_what_they_were_made_from() -> None:
    """Metrics that judge samples, such as label_accuracy and scene_match, read it."""
    task = labelled()
    batch = batch_of(task, {"label": 2}, {"label": "dog"})
    assert [p.meta for p in task.decode(torch.zeros(2, 3, 8, 8), batch)] == [{"label": 2}, {"label": 1}]
    assert [task.describe(row) for row in ({"label": "cat"}, {"label": 1}, {})] == ["cat", "dog", ""]
    text = TextToImage(TextToImage.Config(), (8, 8))
    batch = batch_of(text, {"caption": "a red ball"})
    assert text.decode(torch.zeros(1, 3, 8, 8), batch)[0].meta == {"caption": "a red ball"}


@pytest.mark.parametrize(("label", "said"), [("hrse", "did you mean 'horse'"), (3, "0 to 2"), (-1, "0 to 2")])
def test_unknown_labels_are_named(label: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        labelled().prepare({"label": label}, np.random.default_rng(0), False)


def test_labels_without_names_are_numbers() -> None:
    task = Generation(Generation.Config(condition="label"), (8, 8))
    assert task.prepare({"label": "12"}, np.random.default_rng(0), False).inputs == {"label": 12}
    with pytest.raises(DataError, match="no class is named 'cat'"):
        task.prepare({"label": "cat"}, np.random.default_rng(0), False)


def test_captions_are_strings() -> None:
    with pytest.raises(DataError, match="caption must be a string, not list"):
        TextToImage(TextToImage.Config(), (8, 8)).prepare({"caption": ["a"]}, np.random.default_rng(0), False)


def test_classes_come_from_the_data() -> None:
    info = DatasetInfo(name="d", fields=("image", "label"), classes=tuple((name, True) for name in CLASSES))
    assert Generation.configure({"condition": "label"}, info)["classes"] == CLASSES
    assert "classes" not in Generation.configure({}, info)
    with pytest.raises(CynosureError, match="dataset d has no labels"):
        Generation.configure({"condition": "label"}, DatasetInfo(name="d", fields=("image",)))


def test_without_condition_nothing_is_needed() -> None:
    task = Generation(Generation.Config(), (8, 8))
    assert (task.fields, task.inputs) == (("image",), ())
    batch = batch_of(task, {}, {})
    assert batch.inputs == {} and len(task.decode(torch.zeros(2, 3, 8, 8), batch)) == 2


@pytest.mark.parametrize(
    ("size", "aspect", "rows", "columns"),
    [((10, 20), (8, 8), (0, 10), (5, 15)), ((9, 4), (8, 16), (3, 5), (0, 4)), ((6, 6), (64, 64), (0, 6), (0, 6))],
)
def test_the_centre_is_what_the_model_sees(
    size: tuple[int, int], aspect: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    assert centre_crop(size, aspect) == (slice(*rows), slice(*columns))


def test_reconstructions_lie_where_the_model_looked() -> None:
    task, original = labelled((4, 4)), photo(20, 30)
    seen = task.truth(batch_of(task, {"image": original, "label": 0}))[0]
    black = task.decode(torch.full((1, 3, 4, 4), -1.0), batch_of(task, {"label": 0}))[0]
    restored = task.restore(black, original).values["rgb"]
    assert restored.shape == original.shape and not restored[:, 5:25].any()
    np.testing.assert_array_equal(restored[:, :5], original[:, :5])
    assert task.restore(seen, original[:, 5:25]).values["rgb"].shape == (20, 20, 3)


def test_training_mirrors_and_cuts_as_asked() -> None:
    def views(augment: str) -> set[bytes]:
        task = Generation(Generation.Config.model_validate({"augment": augment}), (8, 8))
        row = {"image": photo(32, 32)}
        return {task.prepare(row, np.random.default_rng(i), True).targets["rgb"].tobytes() for i in range(12)}

    assert (len(views("none")), len(views("flip"))) == (1, 2) and len(views("crop")) > 6


def test_captions_that_say_left_are_not_mirrored() -> None:
    assert TextToImage.Config().augment == "none"


def test_the_baseline_is_the_mean_picture() -> None:
    task = labelled()
    dark, light = ({"image": np.full((8, 8, 3), level, np.uint8), "label": 0} for level in (50, 101))
    answer = task.baseline(iter([batch_of(task, dark, light), batch_of(task, dark)]))
    pictures = [p.values["rgb"] for p in answer(batch_of(task, light, light, light))]
    assert len(pictures) == 3 and all((picture == 67).all() for picture in pictures)


def test_saved_picture_is_the_answer(tmp_path: Path) -> None:
    from PIL import Image

    task = labelled()
    [png] = task.truth(batch_of(task, {"image": photo(), "label": 0}))[0].save(tmp_path / "horse")
    np.testing.assert_array_equal(np.asarray(Image.open(png)), photo())
