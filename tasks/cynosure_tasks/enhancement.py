"""Enhancement: a dark picture as it would be well exposed, by curves for every pixel that a small network writes.

Sources: Zero-DCE (Guo et al. 2020), STAR (Zhang et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo, PartConfig, Task
from cynosure.core.records import Batch, Example, Prediction
from cynosure.data import files
from cynosure.data.augment import inception_box, row_image, row_name, to_pixels
from cynosure.errors import CynosureError, DataError
from cynosure_tasks.curves import apply_curves, apply_curves_tiled, curve_channels, reduce_area
from cynosure_tasks.enhancement_losses import (
    SHARED_SMOOTHNESS,
    WEIGHTS,
    WELL_EXPOSED,
    Formulas,
    supervised,
    zero_reference,
)

Augment = Literal["none", "flip", "crop"]
CROP_AREA = (0.25, 1.0)
"""Which share of a picture 'crop' keeps."""
Weight = float | None


class Enhancement(Task):
    """`values` of a prediction: 'rgb' uint8 [H, W, 3].

    The model sees the picture squeezed to its own size; what it writes are curves, `meta['curves']` [C, H, W] in
    [-1, 1], and `restore` bends the picture itself by them, at its full resolution. Where no answer is known, which
    losses without reference do not need, the picture stands in for it.
    """

    class Config(PartConfig):
        reference: Literal["supervised", "zero"] = Field(
            "supervised", description="'zero' learns from dark pictures alone (Zero-DCE)"
        )
        shared: bool = Field(False, description="one map of curves for all eight steps (Zero-DCE++), not eight")
        formulas: Formulas = Field("coded", description="of 'zero': as in Zero-DCE's code, or in its paper")
        l1: float = Field(1.0, ge=0, description="of 'supervised': weight of the mean absolute error")
        l2: float = Field(0.0, ge=0, description="of 'supervised': weight of the mean squared error")
        cosine: float = Field(0.0, ge=0, description="of 'supervised': weight of the angle; STAR's code has 100")
        color: Weight = Field(None, ge=0, description="weight of colour constancy; null: 0, or as the formulas have it")
        spatial: Weight = Field(None, ge=0, description="of 'zero': weight; null: as the formulas have it")
        exposure: Weight = Field(None, ge=0, description="of 'zero': weight; null: as the formulas have it")
        smoothness: Weight = Field(None, ge=0, description="of 'zero': weight; null: as the formulas have it")
        level: float = Field(WELL_EXPOSED, gt=0, lt=1, description="of 'zero': grey of a good exposure")
        augment: Augment = Field("flip", description="'flip' mirrors half of the pictures; 'crop' also cuts a part out")
        strength: float = Field(1.0, ge=0, le=1, description="share of the curves that answers have; 0 changes nothing")

        @model_validator(mode="after")
        def _some_loss(self) -> Self:
            if self.reference == "supervised" and not self.l1 + self.l2 + self.cosine:
                raise ValueError("l1, l2 and cosine are all 0: give one of them a weight, or no answer is learnt")
            return self

        def weights(self) -> dict[str, float]:
            """Of all losses, by name."""
            if self.reference == "supervised":
                return {"l1": self.l1, "l2": self.l2, "cosine": self.cosine, "color": self.color or 0.0}
            usual = dict(WEIGHTS[self.formulas])
            if self.shared and self.formulas == "coded":
                usual["smoothness"] = SHARED_SMOOTHNESS
            given = {name: getattr(self, name) for name in usual}
            return usual | {name: weight for name, weight in given.items() if weight is not None}

    name = "enhancement"
    fields: tuple[str, ...] = ("degraded",)
    inputs = ("degraded",)
    config: Config

    def __init__(self, config: Config, image_size: tuple[int, int]) -> None:
        self.config = config
        self.image_size = image_size
        if config.reference == "supervised":
            self.fields = ("degraded", "image")

    @classmethod
    def configure(cls, options: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, Any]:
        if options.get("reference", "supervised") == "supervised" and "image" not in info.fields:
            raise CynosureError(f"dataset {info.name} has no answers (image): set the task's reference to zero.")
        return options

    @property
    def channels(self) -> int:
        return curve_channels(self.config.shared)

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        pictures = {"image": row_image(row, "degraded")}
        if row.get("image") is not None:
            pictures["rgb"] = row_image(row)
        if train:
            pictures = self._augmented(pictures, row, rng)
        planes = {name: _planes(reduce_area(picture, self.image_size)) for name, picture in pictures.items()}
        return Example({"image": planes.pop("image")}, planes)

    def _augmented(
        self, pictures: dict[str, np.ndarray], row: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Picture and answer, flipped and cropped alike."""
        sizes = {picture.shape for picture in pictures.values()}
        if len(sizes) > 1:
            raise DataError(f"{row_name(row)}: degraded and image differ in size; store both at the same")
        if self.config.augment != "none" and rng.random() < 0.5:
            pictures = {name: picture[:, ::-1] for name, picture in pictures.items()}
        if self.config.augment == "crop":
            height, width, _ = sizes.pop()
            box = inception_box((height, width), rng, CROP_AREA)
            pictures = {name: picture[box] for name, picture in pictures.items()}
        return pictures

    def encode_targets(self, batch: Batch) -> torch.Tensor:
        """The answer in [-1, 1], once for each step of the curves."""
        return _answer(batch).repeat(1, self.channels // 3, 1, 1)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Zero-DCE's losses, or STAR's against the answer; of pictures in [0, 1]."""
        config, picture = self.config, _unit(batch.inputs["image"])
        curves = outputs.float().clamp(-1, 1)
        enhanced = apply_curves(picture, curves)
        if config.reference == "zero":
            return zero_reference(enhanced, picture, curves, config.weights(), config.formulas, config.level)
        return supervised(enhanced, _unit(batch.targets["rgb"]), config.weights())

    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        curves = self.config.strength * outputs.detach().float().nan_to_num().clamp(-1, 1)
        enhanced = 2 * apply_curves(_unit(batch.inputs["image"]), curves) - 1
        return self._predictions(enhanced, [{"curves": each} for each in curves.cpu()])

    def truth(self, batch: Batch) -> list[Prediction]:
        return self._predictions(_answer(batch))

    def _predictions(self, rgb: torch.Tensor, metas: list[dict[str, Any]] | None = None) -> list[Prediction]:
        images = [to_pixels(image) for image in rgb.cpu().numpy()]
        metas = metas or [{} for _ in images]
        return [Prediction(self, {"rgb": rgb}, meta=meta) for rgb, meta in zip(images, metas, strict=True)]

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"psnr": {}, "ssim": {}, "delta_e2000": {}, "angular_error": {}}

    def baseline(self, batches: Iterator[Batch]) -> Callable[[Batch], list[Prediction]]:
        """All levels times one factor, by which answers are brighter on average."""
        before = after = 0.0
        for batch in batches:
            before += float(_unit(batch.inputs["image"]).mean()) * len(batch)
            after += float(_unit(_answer(batch)).mean()) * len(batch)
        gain = after / max(before, 1e-6)
        return lambda batch: self._predictions(2 * gain * _unit(batch.inputs["image"]) - 1)

    def restore(self, prediction: Prediction, image: np.ndarray) -> Prediction:
        """The picture itself under the curves: none of its detail goes through the model's size."""
        meta = dict(prediction.meta)
        values = {"rgb": apply_curves_tiled(image, meta.pop("curves"))}
        return Prediction(self, values, prediction.codes, meta)

    def draw(self, prediction: Prediction) -> np.ndarray:
        return prediction.values["rgb"]

    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """An RGB picture, path.png; with the transparency of the original where it had one."""
        pixels = prediction.values["rgb"]
        if "alpha" in prediction.meta:
            pixels = np.dstack([pixels, prediction.meta["alpha"]])
        return [files.write_png(path, pixels)]


def _planes(pixels: np.ndarray) -> np.ndarray:
    """Levels float32 [H, W, 3] in [0, 255] -> [3, H, W] in [-1, 1]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) / np.float32(127.5) - np.float32(1)


def _unit(image: torch.Tensor) -> torch.Tensor:
    return (image.float() + 1) / 2


def _answer(batch: Batch) -> torch.Tensor:
    return batch.targets["rgb"] if "rgb" in batch.targets else batch.inputs["image"]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("enhancement", Enhancement)
