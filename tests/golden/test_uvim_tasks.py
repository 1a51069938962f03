"""The tasks' losses, answers and metrics against arrays computed by the published UViM code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from uvim_models import Arrays, Case, assert_predictions, channels_first, classes, panoptic_maps, unpatch

from cynosure.core.records import Batch, Prediction
from cynosure.data.labels import cross_entropy
from cynosure_plugins.metrics.depth_error import NAMES, DepthError
from cynosure_plugins.metrics.psnr import psnr
from cynosure_tasks.depth import Depth
from cynosure_tasks.panoptic import Panoptic


def test_loss_is_uvims(case: Case) -> None:
    losses = case.task().loss(case.outputs(case.stage1), case.batch())
    assert float(sum(losses.values())) == pytest.approx(float(case.stage1["loss_rec"]), abs=1e-5)


def test_each_loss_is_the_mean_of_uvims_map(case: Case) -> None:
    losses = case.task().loss(case.outputs(case.stage1), case.batch())
    maps = {key.removeprefix("loss_map/loss_"): case.stage1[key] for key in case.stage1 if "loss_map/" in key}
    assert losses.keys() == maps.keys()
    for name, wanted in maps.items():
        assert float(losses[name]) == pytest.approx(float(wanted.mean()), abs=1e-5), name


def test_the_loss_of_every_pixel(case: Case) -> None:
    """Labels out of range add nothing, neither does missing depth."""
    targets, outputs = case.batch().targets, case.outputs(case.stage1)
    if case.name == "color":
        found = {"color": (outputs - targets["rgb"]).square()}
    elif case.name == "depth":
        task = case.task()
        assert isinstance(task, Depth)
        bins = task.to_bins(targets["depth"])
        found = {"depth": (cross_entropy(outputs, bins) * (bins > 0))[:, None]}
    else:
        sizes = [case.config["inputs"][channel][0] for channel in case.channels]
        labels = targets["panoptic"].long().unbind(1)
        pairs = zip(case.channels, outputs.split(sizes, dim=1), labels, strict=True)
        found = {channel: cross_entropy(logits, label)[:, None] for channel, logits, label in pairs}
    for name, loss in found.items():
        patches = case.stage1[f"loss_map/loss_{name}"]
        patches = patches.reshape(*patches.shape[:2], -1, patches.shape[-1])
        wanted = unpatch(patches, case.stage1["image"].shape[1:3])
        np.testing.assert_allclose(loss.numpy(), wanted, atol=2e-5, rtol=1e-5, err_msg=name)


def test_predictions_are_uvims(case: Case) -> None:
    wanted = {key: case.stage1[key] for key in case.stage1 if key.startswith("pred/")}
    assert_predictions(case, case.outputs(case.stage1), case.batch(), wanted)


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
