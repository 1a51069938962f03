"""The tasks, their preprocessing and metrics against arrays computed by the published UViM code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cynosure.core.contracts import Task
from cynosure.core.records import Batch, Prediction
from cynosure.data.augment import grey, resize_image, resize_nearest, to_model
from cynosure.data.labels import order_segments
from cynosure_plugins.metrics.color_error import psnr
from cynosure_plugins.metrics.depth_error import NAMES, DepthError
from cynosure_tasks.colorization import Colorization
from cynosure_tasks.depth import Depth
from cynosure_tasks.panoptic import Panoptic

Arrays = dict[str, np.ndarray]
CHANNELS = {"panoptic": ("semantics", "instances"), "depth": ("depth",), "color": ("color",)}


@pytest.fixture(scope="module")
def preprocess(golden: Path) -> Arrays:
    return dict(np.load(golden / "uvim" / "preprocess.npz"))


@pytest.fixture
def stage1(golden: Path, uvim_task: str) -> Arrays:
    return dict(np.load(golden / "uvim" / f"{uvim_task}_stage1_io.npz"))


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(array, -1, 1).copy())


def unpatch(patches: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[B, N, C, p * p] -> [B, C, H, W]."""
    b, _, c, area = patches.shape
    p = round(area**0.5)
    grid = patches.reshape(b, size[0] // p, size[1] // p, c, p, p)
    return grid.transpose(0, 3, 1, 4, 2, 5).reshape(b, c, *size)


def raw_outputs(name: str, arrays: Arrays, prefix: str = "logits") -> torch.Tensor:
    size = arrays["image"].shape[1:3]
    return torch.from_numpy(np.concatenate([unpatch(arrays[f"{prefix}/{c}"], size) for c in CHANNELS[name]], axis=1))


def task_of(name: str, arrays: Arrays, **options: float) -> Task:
    size = arrays["image"].shape[1:3]
    c = [arrays[f"logits/{channel}"].shape[2] for channel in CHANNELS[name]]
    if name == "panoptic":
        return Panoptic(Panoptic.Config(classes=classes(c[0] - 1), max_instances=c[1], **options), size)
    if name == "depth":
        return Depth(Depth.Config(bins=c[0]), size)
    return Colorization(Colorization.Config(), size)


def classes(n: int) -> tuple[tuple[str, bool], ...]:
    return tuple((f"class {i}", i % 2 == 0) for i in range(n))


def batch_of(name: str, arrays: Arrays) -> Batch:
    labels = channels_first(arrays["labels"])
    targets = {"panoptic": {"panoptic": labels}, "depth": {"depth": labels[:, 0]}, "color": {"rgb": labels}}[name]
    n = len(labels)
    inputs = {"image": channels_first(arrays["image"])}
    return Batch(name, inputs, targets, torch.arange(n), torch.ones(n, dtype=torch.bool))


def panoptic_maps(predictions: list[Prediction]) -> np.ndarray:
    return np.stack([np.stack([p.values["class"], p.values["instance"]], axis=-1) for p in predictions])


def test_loss_is_uvims(uvim_task: str, stage1: Arrays) -> None:
    losses = task_of(uvim_task, stage1).loss(raw_outputs(uvim_task, stage1), batch_of(uvim_task, stage1))
    assert float(sum(losses.values())) == pytest.approx(float(stage1["loss_rec"]), abs=1e-5)


def test_oracle_sees_the_targets_that_uvim_embeds(golden: Path, uvim_task: str, stage1: Arrays) -> None:
    """The label embedding of every channel group is linear, so its output tells whether `encode_targets` is right."""
    params = np.load(golden / "uvim" / f"{uvim_task}_stage1_params.npz")
    targets = task_of(uvim_task, stage1).encode_targets(batch_of(uvim_task, stage1)).numpy()
    start = 0
    for channel in CHANNELS[uvim_task]:
        kernel = params[f"params/embedding_{channel}/kernel"]
        c, p = kernel.shape[0], round(kernel.shape[1] ** 0.5)
        b, _, h, w = targets.shape
        grid = targets[:, start : start + c].reshape(b, c, h // p, p, w // p, p)
        patches = grid.transpose(0, 2, 4, 1, 3, 5).reshape(b, -1, c, p * p)
        stem = np.einsum("bncp,cpd->bnd", patches, kernel) + params[f"params/embedding_{channel}/bias"]
        np.testing.assert_allclose(stem, stage1[f"stem/{channel}"], atol=2e-5, rtol=1e-5, err_msg=channel)
        start += c
    assert start == targets.shape[1], "encode_targets has channels that UViM lacks"


def test_predictions_are_uvims(uvim_task: str, stage1: Arrays) -> None:
    batch, outputs = batch_of(uvim_task, stage1), raw_outputs(uvim_task, stage1)
    for key in (k for k in stage1 if k.startswith("pred/")):
        options = {"min_fraction": float(key.rsplit("_", 1)[1])} if "minfrac" in key else {}
        predictions = task_of(uvim_task, stage1, **options).decode(outputs, batch)
        if uvim_task == "panoptic":
            np.testing.assert_array_equal(panoptic_maps(predictions), stage1[key], err_msg=key)
        elif uvim_task == "depth":
            depth = np.stack([p.values["depth"] for p in predictions])
            np.testing.assert_allclose(depth, stage1[key], atol=1e-6, err_msg=key)
        else:
            rgb = np.stack([p.values["rgb"] for p in predictions]) / 127.5 - 1
            np.testing.assert_allclose(rgb, stage1[key], atol=0.5 / 127.5 + 1e-6, err_msg="more than half a grey level")


def test_panoptic_post_processing(ops: Arrays) -> None:
    semantics, instances = ops["panoptic_post/semantics"], ops["panoptic_post/instances"]
    outputs = channels_first(np.concatenate([semantics, instances], axis=-1))
    cases = [key for key in ops if key.startswith("panoptic_post/out_minfrac_")]
    assert cases
    for key in cases:
        options = {"max_instances": instances.shape[-1], "min_fraction": float(key.rsplit("_", 1)[1])}
        task = Panoptic(Panoptic.Config(classes=classes(semantics.shape[-1] - 1), **options), semantics.shape[1:3])
        none = torch.zeros(len(outputs))
        batch = Batch("panoptic", {}, {}, none.long(), none.bool())
        np.testing.assert_array_equal(panoptic_maps(task.decode(outputs, batch)), ops[key], err_msg=key)


def test_depth_bins_there_and_back(ops: Arrays) -> None:
    depth = ops["depth_bins/depth"][..., 0]
    task = Depth(Depth.Config(), depth.shape[1:])
    bins = task.to_bins(torch.from_numpy(depth))
    expected = unpatch(ops["depth_bins/tokens_argmax"][:, :, None], depth.shape[1:])[:, 0]
    np.testing.assert_array_equal(bins.numpy(), expected)
    np.testing.assert_allclose(task.from_bins(bins).numpy(), ops["depth_bins/roundtrip"], atol=1e-6)


def test_segments_are_numbered_in_uvims_order(preprocess: Arrays) -> None:
    given, expected = preprocess["canonical/in"], preprocess["canonical/out"]
    np.testing.assert_array_equal(order_segments(given[..., 1]), expected[..., 1])
    raw, canonical = preprocess["panoptic/labels_raw"], preprocess["panoptic/labels_canonical"]
    top = int(raw[..., 0].max())
    numbered = Panoptic(Panoptic.Config(classes=classes(top)), raw.shape[:2]).number(raw)
    np.testing.assert_array_equal(np.moveaxis(numbered, 0, -1), canonical, err_msg="COCO ids through the task")


def assert_same_picture(image: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Equal but for truncation next to an integer: one grey level, in few pixels."""
    difference = np.abs(np.moveaxis(to_model(image), 0, -1) - expected)
    assert difference.max() <= 2 / 255 + 1e-6, what
    assert np.mean(difference > 1e-6) < 0.01, what


def test_resizing_of_images_and_labels(preprocess: Arrays) -> None:
    cases = [key.removesuffix("/in") for key in preprocess if key.startswith("resize/") and key.endswith("/in")]
    assert cases
    for case in cases:
        out, labels = preprocess[f"{case}/out"], preprocess[f"{case}/lab_out"]
        assert_same_picture(resize_image(preprocess[f"{case}/in"], out.shape[:2], "uvim"), out, case)
        np.testing.assert_array_equal(resize_nearest(preprocess[f"{case}/lab_in"], labels.shape[:2]), labels, case)


def test_nearest_indices(ops: Arrays) -> None:
    for key in (k for k in ops if k.startswith("nearest_index/")):
        old, new = (int(n) for n in key.rsplit("/", 1)[1].split("to"))
        found = resize_nearest(np.arange(old)[:, None], (new, 1))[:, 0]
        at = (np.arange(new) + 0.5) * old / new
        np.testing.assert_array_equal((found - ops[key])[at % 1 != 0], 0, err_msg=key)
        assert np.abs(found - ops[key]).max() <= 1, key


def test_flip_crop_resize_and_renumber(preprocess: Arrays) -> None:
    image, labels = preprocess["panoptic/image_u8"], preprocess["panoptic/labels_raw"]
    for name, step in (("noflip", 1), ("flip", -1)):
        expected_image, expected = preprocess[f"crop/{name}/image_32"], preprocess[f"crop/{name}/labels_32"]
        # The box is given in shares of the picture; UViM cuts it to whole pixels.
        (top, left), (rows, columns) = (preprocess["crop/box_begin_size"] * image.shape[:2]).astype(int)
        box = slice(top, top + rows), slice(left, left + columns)
        size = expected.shape[:2]
        assert_same_picture(resize_image(image[:, ::step][box], size, "uvim"), expected_image, name)
        cropped = resize_nearest(labels[:, ::step][box], size)
        np.testing.assert_array_equal(cropped[..., 0], expected[..., 0], name)
        np.testing.assert_array_equal(order_segments(cropped[..., 1]), expected[..., 1], name)


def test_colorization_examples(preprocess: Arrays) -> None:
    image, x, y = (preprocess[f"color/{name}"] for name in ("image_u8", "image", "labels"))
    resized = resize_image(image, y.shape[:2], "uvim")
    assert_same_picture(resized, y, "target")
    assert_same_picture(np.repeat(grey(resized)[..., None], 3, axis=-1), x, "grey input")
    task = Colorization(Colorization.Config(resize="uvim"), y.shape[:2])
    example = task.prepare({"image": image}, np.random.default_rng(0), train=False)
    np.testing.assert_allclose(np.moveaxis(example.inputs["image"], 0, -1), x, atol=2 / 255 + 1e-6)
    np.testing.assert_allclose(np.moveaxis(example.targets["rgb"], 0, -1), y, atol=2 / 255 + 1e-6)


def test_depth_metrics(ops: Arrays) -> None:
    task = Depth(Depth.Config(), ops["depth_metrics/gt"].shape[1:])
    pairs = [[Prediction(task, {"depth": d})] for d in (*ops["depth_metrics/pred"], *ops["depth_metrics/gt"])]
    n = len(pairs) // 2
    everything = DepthError(DepthError.Config())
    for i in range(n):
        one = DepthError(DepthError.Config())
        for metric in (one, everything):
            metric.update(pairs[i], pairs[n + i])
        found = [float(one.compute()[name]) for name in NAMES]
        np.testing.assert_allclose(found, ops["depth_metrics/per_image"][i], rtol=1e-5, atol=1e-6)
    found = [float(everything.compute()[name]) for name in NAMES]
    np.testing.assert_allclose(found, ops["depth_metrics/mean"], rtol=1e-5, atol=1e-6)


def test_psnr(ops: Arrays) -> None:
    found = [psnr(a, b, data_range=2) for a, b in zip(ops["psnr/a"], ops["psnr/b"], strict=True)]
    np.testing.assert_allclose(found, ops["psnr/out"], rtol=1e-5)
