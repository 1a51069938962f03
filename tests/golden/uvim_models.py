"""Our models with the weights of the reference arrays, built in the sizes that the arrays have.

Shapes of the reference: B batch, N patches, C channels, P pixels of a patch, H W pixels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cynosure.core.contracts import Task
from cynosure.core.guided import GuidedModel
from cynosure.core.records import Batch, Prediction, Shapes
from cynosure_plugins.bases.vit import ViTBase
from cynosure_plugins.encoders.vit import ViTEncoder
from cynosure_plugins.importers import uvim_names
from cynosure_plugins.priors.autoregressive import Autoregressive
from cynosure_plugins.quantizers.vq import VectorQuantizer
from cynosure_plugins.tokenizers.vit_oracle import ViTOracle
from cynosure_tasks.colorization import Colorization
from cynosure_tasks.depth import Depth
from cynosure_tasks.panoptic import Panoptic

Arrays = dict[str, np.ndarray]
OUR_NAMES = {"panoptic": "panoptic", "depth": "depth", "color": "colorization"}


@dataclass(frozen=True)
class Case:
    """The arrays of one of UViM's tasks, and ours built to match. `name` is UViM's name of the task."""

    folder: Path
    name: str

    def arrays(self, file: str) -> Arrays:
        with np.load(self.folder / f"{self.name}_{file}.npz") as arrays:
            return dict(arrays)

    @cached_property
    def stage1(self) -> Arrays:
        """Inputs and outputs of oracle and base."""
        return self.arrays("stage1_io")

    @cached_property
    def stage2(self) -> Arrays:
        """Inputs and outputs of the language model."""
        return self.arrays("stage2_io")

    @cached_property
    def config(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "config.json").read_text())[self.name])

    @property
    def channels(self) -> tuple[str, ...]:
        """UViM's names of the label channels, in our order."""
        return uvim_names.LABEL_CHANNELS[OUR_NAMES[self.name]]

    def task(self, size: tuple[int, int] | None = None, **options: Any) -> Task:
        size = size or _pair(self.config["input_size"])
        c = [self.config["inputs"][channel][0] for channel in self.channels]
        if self.name == "panoptic":
            return Panoptic(Panoptic.Config(classes=classes(c[0] - 1), max_instances=c[1], **options), size)
        if self.name == "depth":
            span = {key: self.config[key] for key in ("min_depth", "max_depth")}
            return Depth(Depth.Config(bins=c[0], **span, **options), size)
        return Colorization(Colorization.Config(**options), size)

    def model(self, **quantizer: Any) -> GuidedModel:
        """Oracle, base and prior with the reference weights, in evaluation mode; options for the quantizer."""
        config, lm, task = self.config, self.config["lm"], self.task()
        shapes = Shapes(_pair(config["input_size"]), {self.name: task.channels})
        sizes = {"patch": _side(config["patch_size"]), **_transformer(config["width"], config)}
        codes = VectorQuantizer.Config(
            vocab_size=config["dict_size"], dim=config["codeword_dim"], decay=config["dict_momentum"], **quantizer
        )
        grid = (isqrt(config["code_len"]),) * 2
        oracle = ViTOracle.Config(
            **sizes, depth=config["enc_depth"], code_grid=grid, context=config["with_encoder_ctx"]
        )
        tokenizer = ViTOracle(oracle, shapes, VectorQuantizer(codes))
        shapes = Shapes(shapes.image_size, shapes.channels, tokenizer.spec, tokenizer.code_dim)
        base = ViTBase(ViTBase.Config(**sizes, depth=config["dec_depth"]), shapes)
        layers = {**_transformer(lm["emb_dim"], lm), "depth": lm["num_layers"]}
        seen = Shapes(_pair(lm["input_size"]), shapes.channels, shapes.spec, shapes.code_dim)
        encoder = ViTEncoder(ViTEncoder.Config(patch=lm["patch"], **layers), seen)
        prior = Autoregressive(Autoregressive.Config(**layers, start_code=True, task_tokens=False), seen, encoder)
        model = GuidedModel({self.name: task}, shapes, base, tokenizer, prior)
        weights = {
            **uvim_names.assemble(self.stage1_names, self.arrays("stage1_params")),
            **uvim_names.assemble(self.stage2_names, self.arrays("stage2_params")),
        }
        model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(w)) for name, w in weights.items()})
        return model.eval()

    @property
    def stage1_names(self) -> uvim_names.Table:
        depths = self.config["enc_depth"], self.config["dec_depth"]
        return uvim_names.stage1(OUR_NAMES[self.name], self.name, *depths)

    @property
    def stage2_names(self) -> uvim_names.Table:
        return uvim_names.stage2(*[self.config["lm"]["num_layers"]] * 2)

    def batch(self) -> Batch:
        """The examples of stage I."""
        labels = channels_first(self.stage1["labels"])
        targets = {"panoptic": {"panoptic": labels}, "depth": {"depth": labels[:, 0]}, "color": {"rgb": labels}}
        return make_batch(self.name, self.stage1["image"], targets[self.name])

    def outputs(self, arrays: Arrays, prefix: str = "logits") -> torch.Tensor:
        """UViM's logits [B, N, C, P] of all label channels as our raw outputs [B, C, H, W]."""
        patches = [arrays[f"{prefix}/{channel}"] for channel in self.channels]
        return torch.from_numpy(np.concatenate([unpatch(p, _pair(self.config["input_size"])) for p in patches], axis=1))


def make_batch(task: str, image: np.ndarray, targets: dict[str, torch.Tensor] | None = None) -> Batch:
    """Images [B, H, W, 3] as a batch of a task."""
    n = len(image)
    inputs = {"image": channels_first(image)}
    return Batch(task, inputs, targets or {}, torch.arange(n), torch.ones(n, dtype=torch.bool))


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(array, -1, 1).copy())


def unpatch(patches: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[B, N, C, P] -> [B, C, H, W]."""
    b, _, c, area = patches.shape
    p = isqrt(area)
    grid = patches.reshape(b, size[0] // p, size[1] // p, c, p, p)
    return grid.transpose(0, 3, 1, 4, 2, 5).reshape(b, c, *size)


def panoptic_maps(predictions: list[Prediction]) -> np.ndarray:
    """(class, instance), [B, H, W, 2]."""
    return np.stack([np.stack([p.values["class"], p.values["instance"]], axis=-1) for p in predictions])


def assert_predictions(case: Case, outputs: torch.Tensor, batch: Batch, wanted: Arrays) -> None:
    """Raw outputs give UViM's answers, `pred/...`; for panoptic with each of its smallest sizes of a segment."""
    assert wanted
    for key, answer in wanted.items():
        options = {"min_fraction": float(key.rsplit("_", 1)[1])} if "minfrac" in key else {}
        predictions = case.task(**options).decode(outputs, batch)
        if case.name == "panoptic":
            np.testing.assert_array_equal(panoptic_maps(predictions), answer, err_msg=key)
        elif case.name == "depth":
            depth = np.stack([p.values["depth"] for p in predictions])
            np.testing.assert_allclose(depth, answer, atol=1e-6, err_msg=key)
        else:
            rgb = np.stack([p.values["rgb"] for p in predictions]) / 127.5 - 1
            np.testing.assert_allclose(rgb, answer, atol=0.5 / 127.5 + 1e-5, err_msg="more than half a grey level")


def classes(n: int) -> tuple[tuple[str, bool], ...]:
    return tuple((f"class {i}", i % 2 == 0) for i in range(n))


def _pair(size: list[int]) -> tuple[int, int]:
    return size[0], size[1]


def _side(patch: list[int]) -> int:
    assert patch[0] == patch[1], "our patches are square"
    return patch[0]


def _transformer(dim: int, config: dict[str, Any]) -> dict[str, int]:
    return {"dim": dim, "heads": config["num_heads"], "mlp_dim": config["mlp_dim"]}


def gradients(model: GuidedModel, names: uvim_names.Table, params: Arrays) -> Arrays:
    """The gradients of a model by UViM's names of the parameters, in UViM's shapes."""
    shapes = {name: array.shape for name, array in params.items()}
    found: Arrays = {}
    for name, parameter in model.named_parameters():
        if name in names:
            assert parameter.grad is not None, f"{name} has no gradient"
            found |= names[name].split(parameter.grad.numpy(), shapes)
    return {name.removeprefix("params/"): gradient for name, gradient in found.items()}
