"""Criteria `lpips` and `adversarial` against arrays computed by taming-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from convnets import TASK, Arrays, millions, read, same
from torch import nn
from torch.nn import functional as F

from cynosure.core.records import Shapes
from cynosure_plugins.criteria.adversarial import Adversarial, adaptive_weight, discriminator_loss
from cynosure_plugins.criteria.discriminator import PatchDiscriminator
from cynosure_plugins.criteria.vgg import difference, scaled


@pytest.fixture(scope="module")
def losses(golden: Path) -> Arrays:
    return read(golden / "vqgan" / "gan_losses.npz")


def tensor(arrays: Arrays, name: str) -> torch.Tensor:
    return torch.from_numpy(arrays[name])


def state(arrays: Arrays, name: str) -> dict[str, torch.Tensor]:
    begin = f"{name}/sd/"
    return {key.removeprefix(begin): tensor(arrays, key) for key in arrays if key.startswith(begin)}


@pytest.mark.parametrize("name", ["batchnorm_2", "batchnorm_3", "actnorm_2"])
def test_discriminator(losses: Arrays, name: str) -> None:
    weights = state(losses, name)
    norm, layers = name.split("_")
    discriminator = PatchDiscriminator(len(weights["main.0.weight"]), int(layers), norm.removesuffix("norm"))
    discriminator.load_state_dict(weights)
    x = tensor(losses, f"{name}/x")
    same(discriminator.eval()(x), losses[f"{name}/logits_eval"])
    same(discriminator.train()(x), losses[f"{name}/logits_train"])


@pytest.mark.parametrize(("layers", "counted"), [(3, 2.77), (2, 0.66)])
def test_parameters_of_published_discriminators(layers: int, counted: float) -> None:
    assert millions(PatchDiscriminator(64, layers, "batch")) == counted


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_discriminator_losses(losses: Arrays, kind: str) -> None:
    real, fake = tensor(losses, "loss_logits_real"), tensor(losses, "loss_logits_fake")
    np.testing.assert_allclose(discriminator_loss(real, fake, kind).numpy(), losses[kind], rtol=1e-5)


@pytest.mark.parametrize("step", [0, 10])
def test_whole_loss_before_and_after_the_adversarial_phase_begins(losses: Arrays, step: int) -> None:
    weights = state(losses, "batchnorm_2")
    config = Adversarial.Config(weight=0.8, start=10, lead=0, ramp=0, layers=2, channels=len(weights["main.0.weight"]))
    criterion = Adversarial(config, Shapes((32, 32), {TASK: 3})).eval()
    criterion.discriminator.load_state_dict(weights)
    criterion.steps.fill_(step)
    last = nn.Parameter(tensor(losses, "aw_last_weight"))
    outputs, target = F.conv2d(tensor(losses, "aw_features"), last, padding=1), tensor(losses, "aw_target")
    reconstruction = (outputs - target).abs().mean()
    found = criterion(outputs, target, TASK, reconstruction, last)
    of_generator = found.get("generator", torch.zeros(()))
    fooling = criterion._fooling(outputs)  # published at every step, computed here from `start` on
    wanted = {
        "g_loss": fooling,
        "d_weight": config.weight * adaptive_weight(reconstruction, fooling, last),
        "disc_loss": found["discriminator"],
        "nll": reconstruction,
        "total": reconstruction + of_generator + tensor(losses, "aw_codebook_loss"),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(value.detach().numpy(), losses[f"aw_step{step}_{name}"], rtol=1e-5, err_msg=name)
    if step:
        weighted = losses["aw_step10_d_weight"] * losses["aw_step10_g_loss"]  # disc_weight is in d_weight
        np.testing.assert_allclose(of_generator.detach().numpy(), weighted, rtol=1e-5)


def test_perceptual_distance_of_features(golden: Path) -> None:
    arrays = read(golden / "vqgan" / "lpips_head.npz")
    same(scaled(tensor(arrays, "image")), arrays["scaled_image"])
    heads = [tensor(arrays, f"lin{i}.model.1.weight").flatten() for i in range(5)]
    pairs = [(tensor(arrays, f"feat_a{i}"), tensor(arrays, f"feat_b{i}")) for i in range(5)]
    layers = [difference(a, b, head) for (a, b), head in zip(pairs, heads, strict=True)]
    np.testing.assert_allclose(torch.stack(layers).sum(0).numpy(), arrays["lpips"].flatten(), rtol=1e-5)
