"""A whole QLAE, tokenizer `qlae` and base `qlae`, against arrays computed by the published code: it learns alike."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cynosure.core.records import Batch, Shapes
from cynosure_plugins.bases.qlae import QLAEBase
from cynosure_plugins.optimizers.qlae_adamw import ElementClippedAdamW, group_options
from cynosure_plugins.quantizers.latent import LatentQuantizer
from cynosure_plugins.tokenizers.qlae import QLAETokenizer
from cynosure_tasks.generation import Generation

TASK = "picture"
NAMES = (
    (r"^encoder\.conv\.layers\[0\]\.layers\[0\]", f"tokenizer.stems.{TASK}"),
    (r"^encoder\.conv\.layers\[(\d+)\]\.layers\[0\]", lambda m: f"tokenizer.convolutions.{int(m[1]) - 1}"),
    (r"^encoder\.conv\.layers\[(\d+)\]\.layers\[1\]", r"tokenizer.norms.\1"),
    (r"^(encoder|decoder)\.dense\.layers\[(\d+)\]\.layers\[0\]", lambda m: f"{m[1]}.dense.{2 * int(m[2])}"),
    (r"^encoder\.", "tokenizer."),
    (r"^latent$", "tokenizer.quantizer.values"),
    (r"^decoder\.input_map", "base.constant"),
    (r"^decoder\.style_conv_transpose\.blocks\[(\d+)\]\.forward_block\.layers\[0\]", r"base.blocks.\1.convolution"),
    (r"^decoder\.style_conv_transpose\.blocks\[(\d+)\]\.conditioning\.layers\[0\]", r"base.blocks.\1.style"),
    (r"^decoder\.conv\.layers\[0\]", f"base.heads.{TASK}"),
    (r"^decoder\.", "base."),
)
"""Patterns of the published names, in order, and what they are here."""


class Model(nn.Module):
    """Tokenizer and base without the platform around them."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        side, convolutions = settings["image_size"], settings["kernel_sizes"].index(4) + 1
        weights = {name: settings["lambdas"][name] for name in ("quantization", "commitment")}
        sizes = (settings["num_values"],) * settings["num_latents"]
        quantizer = LatentQuantizer(LatentQuantizer.Config(sizes=sizes, spread=True, **weights))
        shapes = Shapes((side, side), {TASK: 3})

        def options(part: str) -> dict[str, Any]:
            widths = settings[f"{part}_widths"][::convolutions]
            return {"widths": widths, "convolutions": convolutions, "dense": settings[f"{part}_dense"]}

        tokenizer_config = QLAETokenizer.Config.model_validate(options("encoder"))
        self.tokenizer = QLAETokenizer(tokenizer_config, shapes, quantizer)
        shapes = Shapes(shapes.image_size, shapes.channels, self.tokenizer.spec, self.tokenizer.code_dim, 1)
        self.base = QLAEBase(QLAEBase.Config.model_validate(options("decoder")), shapes)
        self.task = Generation(Generation.Config(l2=0.0, cross_entropy=1.0), (side, side))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses of pictures [B, 3, H, W] in [0, 1]."""
        keys = torch.arange(len(x))
        batch = Batch(TASK, {}, {"rgb": 2 * x - 1}, keys, keys >= 0)
        encoded = self.tokenizer(self.task.encode_targets(batch), {}, TASK)
        return {**self.task.loss(self.base({}, encoded.vectors, TASK), batch), **encoded.losses}


class Tiny:
    """The arrays of one small model, by the names that they have here."""

    def __init__(self, folder: Path) -> None:
        self.settings = json.loads((folder / "tiny_model.json").read_text())
        with np.load(folder / "tiny_model.npz") as file:
            self.arrays = dict(file)
        self.x = torch.from_numpy(self.arrays["x_u8"]) / 255

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors under `param`, `grad`, `after1` or `after3`; the values of all latents are one."""
        found = {k.partition("::")[2]: torch.from_numpy(v) for k, v in self.arrays.items() if k.startswith(prefix)}
        values = [found.pop(name) for name in sorted(found) if name.startswith("latent.")]
        named = {here(name): own(tensor, name) for name, tensor in found.items()}
        return named | {"tokenizer.quantizer.values": torch.cat(values)}

    def model(self) -> Model:
        model = Model(self.settings)
        model.load_state_dict(self.tensors("param::"))
        return model


def here(name: str) -> str:
    """What a published parameter is called here."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def own(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Transposed convolutions are stored un-flipped with the outputs first, torch has them flipped, inputs first."""
    return tensor.flip(-1, -2).transpose(0, 1) if "forward_block" in name else tensor


def same(found: torch.Tensor, wanted: np.ndarray | torch.Tensor, atol: float, what: str, rtol: float = 0) -> None:
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=atol, rtol=rtol, err_msg=what)


@pytest.fixture
def tiny(golden: Path) -> Tiny:
    return Tiny(golden / "qlae")


def test_forward(tiny: Tiny) -> None:
    model = tiny.model().eval()
    arrays = tiny.arrays
    features: list[torch.Tensor] = []
    model.tokenizer.head.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    assert sum(p.numel() for p in model.parameters()) == tiny.settings["n_params"]
    same(model.tokenizer.bottleneck(tiny.x, {}, TASK)[:, 0], arrays["pre_z"], 5e-6, "the numbers that are quantized")
    encoded = model.tokenizer(tiny.x, {}, TASK)
    assert np.array_equal(encoded.codes.ids[..., 0].numpy(), arrays["z_indices"])
    same(features[-1], arrays["features"], 5e-6, "what the head reads")
    same(encoded.vectors[:, 0], arrays["z_hat"], 5e-6, "the code's values")
    logits = model.base({}, encoded.vectors, TASK)
    same(logits, arrays["x_hat_logits"], 5e-6, "the logits")
    errors = (logits.sigmoid() - tiny.x).square().mean((1, 2, 3))
    same(-10 * errors.log10().mean(), tiny.settings["psnr0"], 1e-4, "the peak signal to noise ratio")


def test_loss_and_gradients(tiny: Tiny) -> None:
    model = tiny.model().train()
    losses = model(tiny.x)
    loss = torch.stack(list(losses.values())).sum()
    same(loss, tiny.settings["trajectory"][0]["loss"], 0, "the loss", rtol=2e-6)
    loss.backward()
    gradients = tiny.tensors("grad::")
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        same(parameter.grad, gradients.pop(name), 2e-6, f"the gradient of {name}")
    assert not gradients, f"published parameters without a counterpart: {list(gradients)}"


def test_the_optimizer_groups_are_the_published_ones(tiny: Tiny) -> None:
    model = tiny.model()
    labels = {here(name): label for name, label in tiny.settings["labels"].items()}
    for name, _ in model.named_parameters():
        clips = group_options(name, 0.1)["clip_elements"]
        assert clips == (labels[name] == "regularized"), f"{name} is {labels[name]}"


def test_three_optimizer_steps(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some gradients are 0 but for rounding, which Adam divides by 1e-8: oneDNN's is too coarse for that on some CPUs.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    settings, model = tiny.settings, tiny.model().train()
    lr, decay = settings["optimizer"]["lr"], settings["optimizer"]["adamw_weight_decay"]
    groups = [{"params": [p], **group_options(name, decay)} for name, p in model.named_parameters()]
    optimizer = ElementClippedAdamW(groups, lr=lr)
    for step, wanted in enumerate(settings["trajectory"]):
        losses = model(tiny.x)
        same(sum(losses.values(), torch.zeros(())), wanted["loss"], 0, f"the loss before step {step + 1}", rtol=2e-6)
        for name, loss in losses.items():
            published = "binary_cross_entropy" if name == "cross_entropy" else name
            weight = settings["lambdas"][published]
            same(loss / weight, wanted[f"{published}_loss"], 0, f"{name} before step {step + 1}", rtol=2e-5)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        if step + 1 in (1, 3):
            for name, tensor in tiny.tensors(f"after{step + 1}::").items():
                same(model.get_parameter(name), tensor, 2e-5, f"{name} after {step + 1} steps")
