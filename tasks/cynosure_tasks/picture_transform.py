"""What tasks share whose answer is the picture itself, changed: a network looks at it small and writes small maps that
change it at its full resolution, so that none of its detail goes through the network.

Shapes: B batch, C maps, H W pixels of a picture, h w rows and columns of the maps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from cynosure.core.contracts import PartConfig, Task
from cynosure.core.records import Batch, Example, Prediction
from cynosure.data import files
from cynosure.data.augment import inception_box, row_image, row_name, to_pixels
from cynosure.errors import DataError
from cynosure_tasks.enhancement_losses import supervised
from cynosure_tasks.picture_network import PictureNetwork
from cynosure_tasks.tiles import LEVELS, Change, change_tiled, change_whole, reduce_area

Augment = Literal["none", "flip", "crop"]
CROP_AREA = (0.25, 1.0)
"""Which share of a picture 'crop' keeps."""


class TransformConfig(PartConfig):
    """Options of every task that changes pictures."""

    l1: float = Field(1.0, ge=0, description="of answers: weight of the mean absolute error")
    l2: float = Field(0.0, ge=0, description="of answers: weight of the mean squared error")
    cosine: float = Field(0.0, ge=0, description="of answers: weight of the angle of colours; STAR's code has 100")
    augment: Augment = Field("flip", description="'flip' mirrors half of the pictures; 'crop' also cuts a part out")
    strength: float = Field(1.0, ge=0, le=1, description="share of the maps that answers have; 0 changes nothing")

    @property
    def supervised(self) -> bool:
        """Whether the task learns from answers."""
        return True

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if self.supervised and not self.l1 + self.l2 + self.cosine:
            raise ValueError("l1, l2 and cosine are all 0: give one of them a weight, or no answer is learnt")
        return self

    def weights(self) -> dict[str, float]:
        """Of all losses, by name."""
        return {"l1": self.l1, "l2": self.l2, "cosine": self.cosine}


class PictureTransform(Task):
    """`values` of a prediction: 'rgb' [H, W, 3], uint8, or of the picture's own type when it is restored.

    The model sees the picture squeezed to its own size. A task says how many maps that gives (`channels`) and what they
    do (`pointwise`); maps of 0 change nothing. Answers hold them, `meta['maps']` [C, H, W] in [-1, 1], and `restore`
    changes the picture itself by them. Where no answer is known, the picture stands in for it.
    """

    fields: tuple[str, ...] = ("degraded", "image")
    inputs = ("degraded",)
    bits = 16
    config: TransformConfig

    def __init__(self, config: TransformConfig, image_size: tuple[int, int]) -> None:
        self.config = config
        self.image_size = image_size

    @abstractmethod
    def pointwise(self, maps: torch.Tensor) -> tuple[torch.Tensor, Change]:
        """Maps [B, C, h, w] in [-1, 1] -> those of them that belong to pixels, and how these change a picture.

        What maps say about a picture as a whole is in the change. Differentiable, and traceable by torch.export.
        """

    def changed(self, picture: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Picture [B, 3, H, W] in [0, 1] and maps [B, C, H, W] in [-1, 1] -> picture [B, 3, H, W]; for training, which
        wants gradients outside of [0, 1] too."""
        local, change = self.pointwise(maps)
        return change(picture, local.split(3, dim=1), False)

    def apply(self, picture: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """The answer: picture [B, 3, H, W] in [0, 1] of any size and the model's raw outputs [B, C, h, w] for it ->
        picture [B, 3, H, W] in [0, 1]. Pure torch, and no choice depends on values or sizes: torch.export traces it."""
        return change_whole(picture, *self.pointwise(self.maps(outputs)))

    def maps(self, outputs: torch.Tensor) -> torch.Tensor:
        """Raw outputs -> the maps of answers, in [-1, 1]: by their strength, and 0 for what is no number."""
        return self.config.strength * outputs.float().nan_to_num().clamp(-1, 1)

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        pictures = {"image": row_image(row, "degraded", self.bits)}
        if row.get("image") is not None:
            pictures["rgb"] = row_image(row, "image", self.bits)
        if train:
            pictures = self._augmented(pictures, row, rng)
        planes = {name: _planes(picture, self.image_size) for name, picture in pictures.items()}
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
        """The answer in [-1, 1], once for every three maps."""
        return _answer(batch).repeat(1, self.channels // 3, 1, 1)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """STAR's losses against the answer, by their weights; of pictures in [0, 1]."""
        changed = self.changed(unit(batch.inputs["image"]), outputs.float().clamp(-1, 1))
        return supervised(changed, unit(batch.targets["rgb"]), self.config.weights())

    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        maps = self.maps(outputs.detach())
        answers = 2 * change_whole(unit(batch.inputs["image"]), *self.pointwise(maps)) - 1
        return self._predictions(answers, [{"maps": each} for each in maps.cpu()])

    def truth(self, batch: Batch) -> list[Prediction]:
        return self._predictions(_answer(batch))

    def _predictions(self, rgb: torch.Tensor, metas: list[dict[str, Any]] | None = None) -> list[Prediction]:
        images = [to_pixels(image) for image in rgb.cpu().numpy()]
        metas = metas or [{} for _ in images]
        return [Prediction(self, {"rgb": rgb}, meta=meta) for rgb, meta in zip(images, metas, strict=True)]

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"psnr": {}, "ssim": {}, "delta_e2000": {}, "angular_error": {}}

    def baseline(self, batches: Iterator[Batch]) -> Callable[[Batch], list[Prediction]]:
        """All levels times one factor."""
        gain = self.mean_gain(batches)
        return lambda batch: self._predictions(2 * gain * unit(batch.inputs["image"]) - 1)

    def mean_gain(self, batches: Iterator[Batch]) -> float:
        """By which factor answers are brighter on average."""
        before = after = 0.0
        for batch in batches:
            before += float(unit(batch.inputs["image"]).mean()) * len(batch)
            after += float(unit(_answer(batch)).mean()) * len(batch)
        return after / max(before, 1e-6)

    def restore(self, prediction: Prediction, image: np.ndarray) -> Prediction:
        """The picture itself, changed: uint8, uint16 or float32 in [0, 1], and of that type again. It equals `apply`,
        a few rows at a time."""
        meta = dict(prediction.meta)
        local, change = self.pointwise(meta.pop("maps")[None])
        return Prediction(self, {"rgb": change_tiled(image, local[0], change)}, prediction.codes, meta)

    def network(self, base: nn.Module) -> nn.Module:
        return PictureNetwork(base, self.image_size, self.apply)

    def draw(self, prediction: Prediction) -> np.ndarray:
        rgb = prediction.values["rgb"]
        return np.rint(rgb * (255 / LEVELS[rgb.dtype])).astype(np.uint8)

    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """An RGB picture, path.png; with the transparency of the original where it had one."""
        return [files.write_rgb(path, prediction.values["rgb"], prediction.meta.get("alpha"))]


def unit(image: torch.Tensor) -> torch.Tensor:
    """Levels in [-1, 1] -> [0, 1]."""
    return (image.float() + 1) / 2


def _answer(batch: Batch) -> torch.Tensor:
    return batch.targets["rgb"] if "rgb" in batch.targets else batch.inputs["image"]


def _planes(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Levels uint8 or uint16 [H, W, 3] -> float32 [3, h, w] in [-1, 1], at `size`."""
    levels = reduce_area(picture, size).transpose(2, 0, 1)
    return np.ascontiguousarray(levels) / np.float32(LEVELS[picture.dtype] / 2) - np.float32(1)
