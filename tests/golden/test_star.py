"""Networks, curves, losses and measures of image enhancement against arrays computed by STAR's and Zero-DCE's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convnets import Arrays, read, same
from safetensors.torch import load_file
from torch.nn import functional as F

from cynosure.core.records import Shapes
from cynosure_plugins.bases.star import Star
from cynosure_plugins.bases.zero_dce import ZeroDCE, ZeroDCEpp
from cynosure_plugins.curvenets.star import StarNet
from cynosure_plugins.curvenets.transformer import Transformer
from cynosure_plugins.metrics.psnr import psnr
from cynosure_plugins.metrics.ssim import ssim
from cynosure_tasks.curves import apply_curves, apply_curves_tiled
from cynosure_tasks.enhancement import Enhancement
from cynosure_tasks.enhancement_losses import (
    color_constancy,
    exposure,
    illumination_smoothness,
    spatial_consistency,
    supervised,
    zero_reference,
)

TASK = "enhancement"
VARIANTS = ("ori", "half", "sin")
PARAMETERS = {"ori": 11_112, "half": 4_608, "sin": 4_296}
"""Those that compute; the unused position tables are buffers."""


@pytest.fixture(scope="module")
def star(golden: Path) -> Path:
    return golden / "star"


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, star: Path) -> tuple[Star, Arrays]:
    """A variant with its published weights, and what it computes."""
    base = Star(Star.Config(variant=request.param), Shapes((256, 256), {TASK: 24}))
    load(base, star / f"star_{request.param}.safetensors")
    return base, read(star / f"star_{request.param}_io.npz")


def load(base: Any, file: Path) -> None:
    """Published names below one prefix, none missing and none left over."""
    base.load_state_dict({f"nets.{TASK}.{name}": tensor for name, tensor in load_file(file).items()})
    base.eval()


def planes(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> [B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2)


def curves_of(base: Any, picture: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return base({"image": 2 * picture - 1}, None, TASK)


def bent(picture: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """One picture by the tiled path that predictions take."""
    pixels = picture[0].permute(1, 2, 0).contiguous().numpy()
    return torch.from_numpy(apply_curves_tiled(pixels, curves[0])).permute(2, 0, 1)[None]


def test_inside_the_network(case: tuple[Star, Arrays]) -> None:
    base, io = case
    net: Any = base.nets[TASK]
    reduced = F.adaptive_avg_pool2d(planes(io["full_u8"]), 256)
    with torch.no_grad():
        pooled = net.pooled(reduced)
        maps = net.maps(reduced)
        same(net.e_conv1(reduced)[:, :, ::5, ::5], io["e_conv1_pre_relu_sub"])
        same(pooled.flatten(2).transpose(1, 2)[:, ::8], io["tokens_in_sub"])
        same(net.long_range(pooled).flatten(2).transpose(1, 2)[:, ::8], io["tokens_out_sub"])
        if isinstance(net, StarNet):
            same(net.enc_conv(pooled)[:, :, ::3, ::3], io["enc_conv_out_sub"])
            same(maps, io["maps_32_pre_tanh"])


def test_curves_and_pictures_of_every_size(case: tuple[Star, Arrays]) -> None:
    base, io = case
    full, small = planes(io["full_u8"]), planes(io["small_u8"])
    reduced = F.adaptive_avg_pool2d(full, 256)
    curves = curves_of(base, reduced)
    x, _, _, c, e, cy, cx, ey, ex = (int(n) for n in io["strides"])
    same(reduced[:, :, ::x, ::x], io["x256_sub"], 1e-6)
    same(curves[:, :, ::c, ::c], io["A_256_sub"], 1e-5)
    same(apply_curves(reduced, curves)[:, :, ::e, ::e], io["enh_256_sub"], 1e-5)
    whole = F.interpolate(curves, size=full.shape[2:], mode="bilinear", align_corners=False)
    same(whole[:, :, ::cy, ::cx], io["A_full_sub"], 1e-5)
    same(bent(full, curves)[:, :, ::ey, ::ex], io["enh_full_sub"], 1e-5)
    same(bent(small, curves), io["enh_small"], 1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters(variant: Any) -> None:
    base = Star(Star.Config(variant=variant), Shapes((256, 256), {TASK: 24}))
    assert sum(p.numel() for p in base.parameters()) == PARAMETERS[variant]


def test_blocks_with_positions(star: Path) -> None:
    io = read(star / "transformer_block_io.npz")
    weights = load_file(star / "transformer_block.safetensors")
    out = {name: weights.pop(f"out.1.{name}") for name in ("weight", "bias")}
    dim, depth, heads, hidden, _ = (int(n) for n in io["cfg"])
    blocks = Transformer(dim, depth, heads, hidden)
    blocks.load_state_dict(weights)
    x, positions = torch.from_numpy(io["x"]), torch.from_numpy(io["pos"])
    for given, wanted in ((None, io["y"]), (positions, io["y_pos"])):
        same(F.linear(F.gelu(blocks(x, given)), **out), wanted, 2e-6)


@pytest.fixture(scope="module")
def convolutional(star: Path) -> Arrays:
    return read(star / "cnn_curve_nets_io.npz")


def test_zero_dce(star: Path, convolutional: Arrays) -> None:
    picture = planes(convolutional["u8"])
    base = ZeroDCE(ZeroDCE.Config(), Shapes((24, 32), {TASK: 24}))
    load(base, star / "zero_dce.safetensors")
    curves = curves_of(base, picture)
    same(curves[:, :, ::2, ::2], convolutional["zero_dce_r_sub"], 1e-5)
    same(apply_curves(picture, curves), convolutional["zero_dce_enh8"], 1e-5)
    assert sum(p.numel() for p in base.parameters()) == 79_416


def test_pooled_dce_net(star: Path, convolutional: Arrays) -> None:
    picture, full = planes(convolutional["u8"]), planes(convolutional["pool_full_u8"])
    base = ZeroDCE(ZeroDCE.Config(dim=8, pool=True), Shapes((24, 32), {TASK: 24}))
    load(base, star / "dce_net_pool.safetensors")
    curves = curves_of(base, picture)
    same(curves[:, :, ::2, ::2], convolutional["pool_A"], 1e-5)
    same(apply_curves(picture, curves), convolutional["pool_enh"], 1e-5)
    for i, wanted in enumerate(convolutional["pool_enh_full"]):
        same(bent(full, curves[i : i + 1])[0], wanted, 1e-5)


@pytest.mark.parametrize("scale", [1, 4])
def test_zero_dce_pp(star: Path, convolutional: Arrays, scale: int) -> None:
    picture = planes(convolutional["u8"])
    base = ZeroDCEpp(ZeroDCEpp.Config(scale=scale), Shapes((24, 32), {TASK: 3}))
    load(base, star / "zero_dce_pp.safetensors")
    curves = curves_of(base, picture)
    same(curves, convolutional[f"zpp_s{scale}_A"], 1e-5)
    same(apply_curves(picture, curves), convolutional[f"zpp_s{scale}_enh"], 1e-5)
    assert sum(p.numel() for p in base.parameters()) == 10_561


@pytest.fixture(scope="module")
def losses(star: Path) -> tuple[Arrays, dict[str, float]]:
    return read(star / "losses_io.npz"), json.loads((star / "losses.json").read_text())


def pictures(io: Arrays) -> tuple[torch.Tensor, ...]:
    """Input, result, answer and curves of the loss fixtures; result and curves want gradients."""
    org, enh, ref = (torch.from_numpy(io[f"{name}_u8"].astype(np.float32) / 255) for name in ("org", "enh", "ref"))
    curves = torch.from_numpy(io["A_i8"].astype(np.float32) / 127)
    return org, enh.requires_grad_(), ref, curves.requires_grad_()


def close(found: torch.Tensor, wanted: float) -> None:
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)


def test_zero_reference_losses_as_coded(losses: tuple[Arrays, dict[str, float]]) -> None:
    io, values = losses
    org, enh, _, curves = pictures(io)
    close(spatial_consistency(enh, org), values["spa"])
    close(color_constancy(enh), values["color"])
    close(illumination_smoothness(curves), values["tv"])
    for level in (0.4, 0.6, 0.8):
        close(exposure(enh, level=level), values[f"exp_E{level}"])
    total = sum(zero_reference(enh, org, curves, Enhancement.Config(reference="zero").weights()).values())
    close(total, values["total_zero_dce"])
    total.backward()
    assert enh.grad is not None and curves.grad is not None
    np.testing.assert_allclose(enh.grad, io["grad_enh"], atol=1e-6, rtol=1e-4)
    np.testing.assert_allclose(curves.grad[:, ::4, ::3, ::3], io["grad_A_sub"], atol=1e-6, rtol=1e-4)


def test_zero_reference_losses_of_shared_curves(losses: tuple[Arrays, dict[str, float]]) -> None:
    io, values = losses
    org, enh, _, curves = pictures(io)
    weights = Enhancement.Config(reference="zero", shared=True).weights()
    close(sum(zero_reference(enh, org, curves[:, :3], weights).values()), values["total_zero_dce_pp"])


def test_supervised_losses(losses: tuple[Arrays, dict[str, float]]) -> None:
    io, values = losses
    _, enh, ref, _ = pictures(io)
    found = supervised(enh, ref, {"l1": 1.0, "l2": 1.0, "cosine": 1.0})
    for name, wanted in (("l1", "l1"), ("l2", "l2"), ("cosine", "cos")):
        close(found[name], values[wanted])
    total = sum(supervised(enh, ref, Enhancement.Config(color=1.0, cosine=100.0).weights()).values())
    close(total, values["star_total_l1_color_100cos"])
    total.backward()
    assert enh.grad is not None
    np.testing.assert_allclose(enh.grad[:, :, ::3, ::3], io["grad_star_enh_sub"], atol=1e-6, rtol=1e-4)


def test_measures(star: Path) -> None:
    io, values = read(star / "metrics_io.npz"), json.loads((star / "metrics.json").read_text())
    a, b, c = (io[name] for name in "abc")
    for name, other in (("ab", b), ("ac", c)):
        assert psnr(a, other, 255) == pytest.approx(values[f"psnr_{name}"], abs=1e-9)
        assert ssim(a, other) == pytest.approx(values[f"ssim_{name}"], abs=1e-9)
    assert ssim(a[..., 0], b[..., 0]) == pytest.approx(values["ssim_gray_ab"], abs=1e-9)
