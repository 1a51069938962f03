"""What tasks share whose answer is a whole picture: it is made, not found in another one. Shapes: B batch, H W pixels.

Every picture that fits a description is right, so that answers with codes from the prior are samples; only those with
the oracle's codes can be compared with the true picture, and are its reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch.nn import functional as F

from cynosure.core.contracts import PartConfig, Task
from cynosure.core.records import Batch, Example, Prediction
from cynosure.data import files
from cynosure.data.augment import (
    inception_box,
    resize_image,
    resize_nearest,
    row_image,
    row_name,
    to_model,
    to_pixels,
)
from cynosure.errors import DataError

Augment = Literal["none", "flip", "crop"]
CROP_AREA = (0.64, 1.0)
"""Which share of the centre crop 'crop' keeps."""
NO_SAMPLES = ("oracle", "none", "baseline")
"""Columns of a report whose pictures can be compared with the true one."""


class PictureConfig(PartConfig):
    """Options of every task that makes pictures."""

    l1: float = Field(0.0, ge=0, description="weight of the mean absolute error; VQGAN has 1, and l2 0")
    l2: float = Field(1.0, ge=0, description="weight of the mean squared error, of pixels in [-1, 1]")
    cross_entropy: float = Field(
        0.0,
        ge=0,
        description="weight of the cross entropy of pixels in [0, 1]; QLAE has 1, and l2 0. Outputs are then logits,"
        " which criteria cannot judge",
    )
    augment: Augment = Field("flip", description="'flip' mirrors half of the pictures; 'crop' also cuts a part out")
    metrics: Mapping[str, Mapping[str, Any]] = Field(
        {}, description="further metrics by name, such as {feature_distance: {network: FILE}}"
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not self.l1 + self.l2 + self.cross_entropy:
            raise ValueError("l1, l2 and cross_entropy are all 0: give one of them a weight, or nothing is learnt")
        return self


class PictureTask(Task):
    """`values` of a prediction: 'rgb' uint8 [H, W, 3]; its `meta` holds the words and labels that it was made from.

    The model sees the largest centred part of a picture that has its own aspect.
    """

    one_to_many = True
    config: PictureConfig

    def __init__(self, config: PictureConfig, image_size: tuple[int, int]) -> None:
        self.config = config
        self.image_size = image_size

    @property
    def channels(self) -> int:
        return 3

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        """Inputs that are maps [H, W] are cut, mirrored and resized with the picture. DataError where sizes differ."""
        values = {name: self.read(row, name) for name in self.inputs if name in row}
        if row.get("image") is not None:
            values["image"] = row_image(row)
        planes = {name: value for name, value in values.items() if np.ndim(value) > 1}
        if planes:
            part = self._part(_common_size(row, planes), rng, train)
            values |= {name: resized(part(plane), self.image_size) for name, plane in planes.items()}
        image = values.pop("image", None)
        return Example(values, {} if image is None else {"rgb": to_model(image)})

    def read(self, row: Mapping[str, Any], name: str) -> Any:
        """The input `name` of a row; DataError where it is none."""
        return row[name]

    def _part(self, size: tuple[int, ...], rng: np.random.Generator, train: bool) -> Callable[[np.ndarray], np.ndarray]:
        """What the model sees of everything of `size`: its centre, in training as `augment` says."""
        centre = centre_crop(size, self.image_size)
        how = self.config.augment if train else "none"
        step = -1 if how != "none" and rng.random() < 0.5 else 1
        box = (slice(None), slice(None))
        if how == "crop":
            aspect = self.image_size[1] / self.image_size[0]
            height, width = (side.stop - side.start for side in centre)
            box = inception_box((height, width), rng, CROP_AREA, (aspect, aspect))
        return lambda plane: plane[centre][:, ::step][box]

    @property
    def judgeable(self) -> bool:
        return not self.config.cross_entropy

    def encode_targets(self, batch: Batch) -> torch.Tensor:
        """Pictures in [-1, 1], or in [0, 1] as QLAE has them, where outputs are logits."""
        rgb = batch.targets["rgb"]
        return (rgb + 1) / 2 if self.config.cross_entropy else rgb

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Means over everything, by their weights: absolute and squared errors of pixels in [-1, 1], cross entropy."""
        outputs, rgb = outputs.float(), batch.targets["rgb"]
        error = self._pixels(outputs) - rgb
        terms = {
            "l1": (self.config.l1, error.abs),
            "l2": (self.config.l2, error.square),
            "cross_entropy": (
                self.config.cross_entropy,
                lambda: F.binary_cross_entropy_with_logits(outputs, (rgb + 1) / 2, reduction="none"),
            ),
        }
        return {name: weight * value().mean() for name, (weight, value) in terms.items() if weight}

    def _pixels(self, outputs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(outputs / 2) if self.config.cross_entropy else outputs  # 2 sigmoid(logit) - 1

    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        return self._predictions(self._pixels(outputs.detach().float()), batch)

    def truth(self, batch: Batch) -> list[Prediction]:
        return self._predictions(batch.targets["rgb"], batch)

    def _predictions(self, rgb: torch.Tensor, batch: Batch) -> list[Prediction]:
        words = {k: v for k, v in batch.inputs.items() if not torch.is_tensor(v) or v.ndim == 1}
        inputs = {k: v.tolist() if torch.is_tensor(v) else v for k, v in words.items()}
        metas = [{name: values[i] for name, values in inputs.items()} for i in range(len(batch))]
        images = rgb.cpu().numpy()
        return [
            Prediction(self, {"rgb": to_pixels(image)}, meta=meta) for image, meta in zip(images, metas, strict=True)
        ]

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"psnr": {"columns": NO_SAMPLES}, **self.config.metrics}

    def baseline(self, batches: Iterator[Batch]) -> Callable[[Batch], list[Prediction]]:
        """The mean picture."""
        total, count = torch.zeros(3, *self.image_size), 0
        for batch in batches:
            total += batch.targets["rgb"].sum(0)
            count += len(batch)
        mean = total / max(count, 1)
        return lambda batch: self._predictions(mean.expand(len(batch), -1, -1, -1), batch)

    def restore(self, prediction: Prediction, image: np.ndarray) -> Prediction:
        """The answer in the place of what the model saw of a given picture; the rest of that stays as it is."""
        here = centre_crop(image.shape[:2], self.image_size)
        whole = image.copy()
        whole[here] = resize_image(prediction.values["rgb"], whole[here].shape[:2])
        return prediction.with_values({"rgb": whole})

    def draw(self, prediction: Prediction) -> np.ndarray:
        return prediction.values["rgb"]

    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """An RGB picture, path.png; with the transparency of a picture that was edited."""
        return [files.write_rgb(path, prediction.values["rgb"], prediction.meta.get("alpha"))]


def _common_size(row: Mapping[str, Any], planes: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    sizes = {name: plane.shape[:2] for name, plane in planes.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
        raise DataError(f"{row_name(row)}: sizes differ ({found}); store all at the same height and width")
    return next(iter(sizes.values()))


def resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture uint8 [H, W, 3] or numbers float [H, W] at `size`, antialiased; class numbers int [H, W] by nearest."""
    if plane.dtype.kind == "f":
        return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], Image.Resampling.BILINEAR))
    return resize_image(plane, size) if plane.ndim == 3 else resize_nearest(plane, size)


def centre_crop(size: tuple[int, ...], aspect: tuple[int, int]) -> tuple[slice, slice]:
    """The largest centred part (rows, columns) of a picture of `size` (H, W) with the aspect of `aspect` (H, W)."""
    scale = min(size[0] / aspect[0], size[1] / aspect[1])
    height, width = max(1, round(aspect[0] * scale)), max(1, round(aspect[1] * scale))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return slice(top, top + height), slice(left, left + width)
