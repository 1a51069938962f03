"""Colorization: the colours of a grey picture. Many answers are right, so sampling shows several.

Source: UViM (Kolesnikov et al. 2022); the 'residual' encoding is ours, for small models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Task
from cynosure.core.records import Batch, Example, Prediction
from cynosure.data import files
from cynosure.data.augment import Augment, Resize, grey, luma, resize_linear, row_image, to_model, to_pixels, view


class Colorization(Task):
    """`values` of a prediction: 'rgb' uint8 [H, W, 3].

    Every picture is its own target, so examples made for prediction have targets too: what colours it came with.
    """

    class Config(PartConfig):
        encoding: Literal["rgb", "residual"] = Field(
            "rgb",
            description="'rgb': the colours themselves, mean squared error (UViM). 'residual': the colours less the "
            "grey input, error times 30; small models then keep all detail",
        )
        augment: Augment = "inception"
        resize: Resize = "antialias"

    name = "colorization"
    fields = ("image",)
    one_to_many = True
    config: Config

    def __init__(self, config: Config, image_size: tuple[int, int]) -> None:
        self.config = config
        self.image_size = image_size

    @property
    def channels(self) -> int:
        return 3

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        how = self.config.augment if train else "none"
        image, _ = view(row_image(row), None, self.image_size, rng, how, self.config.resize)
        x = np.broadcast_to(grey(image)[..., None], image.shape)
        return Example({"image": to_model(x)}, {"rgb": to_model(image)})

    def encode_targets(self, batch: Batch) -> torch.Tensor:
        rgb = batch.targets["rgb"]
        return rgb if self.config.encoding == "rgb" else rgb - batch.inputs["image"]

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean squared error over everything, in units of [-1, 1], times 30 for 'residual'."""
        error = (outputs.float() - self.encode_targets(batch)).square().mean()
        return {"color": error if self.config.encoding == "rgb" else 30 * error}

    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        rgb = outputs.detach().float()
        return self._predictions(rgb if self.config.encoding == "rgb" else rgb + batch.inputs["image"])

    def truth(self, batch: Batch) -> list[Prediction]:
        return self._predictions(batch.targets["rgb"])

    def _predictions(self, rgb: torch.Tensor) -> list[Prediction]:
        return [Prediction(self, {"rgb": to_pixels(image)}) for image in rgb.cpu().numpy()]

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"color_error": {}}

    def baseline(self, batches: Iterator[Batch]) -> Callable[[Batch], list[Prediction]]:
        """The grey picture itself."""
        return lambda batch: self._predictions(batch.inputs["image"])

    def restore(self, prediction: Prediction, image: np.ndarray) -> Prediction:
        """Predicted colours over the detail of the original, at its resolution.

        Only the chroma (colour less luma, which the eye sees coarsely) is enlarged; luma is the original's own. Where
        both together leave [0, 255], chroma gives way, so that no detail is lost.
        """
        rgb = prediction.values["rgb"]
        chroma = resize_linear(rgb - luma(rgb)[..., None], (image.shape[0], image.shape[1]))
        light = luma(image)[..., None]
        room = np.where(chroma > 0, 255 - light, light) / np.maximum(np.abs(chroma), 1e-6)
        colors = light + chroma * np.minimum(room.min(axis=-1, keepdims=True), 1)
        return prediction.with_values({"rgb": np.clip(np.rint(colors), 0, 255).astype(np.uint8)})

    def draw(self, prediction: Prediction) -> np.ndarray:
        return prediction.values["rgb"]

    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """An RGB picture, path.png; with the transparency of the original where it had one."""
        return [files.write_rgb(path, prediction.values["rgb"], prediction.meta.get("alpha"))]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("colorization", Colorization)
