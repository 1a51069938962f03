"""Colorization as ColTran and UViM measure it: Fréchet distance of sampled colours from true pictures, and PSNR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import Protocol
from cynosure.core.records import Example, Prediction
from cynosure.data import files
from cynosure.data.augment import centre_square, resize_area
from cynosure_plugins.metrics.feature_distance import FeatureDistance

SCALE = 127.5 / 128
"""Levels are level / 128 - 1 in these evaluations, and level / 127.5 - 1 in training and everywhere else."""


class ColorizationFid(Protocol):
    """Centred squares, resized by area; codes are drawn at temperature 1. Features are compared at `size` pixels, PSNR
    (mean over pictures, range 2 of values in [-1, 1]) and chroma at the model's.

    Values of an answer: 'rgb' at the model's size, 'scored' at `size`, both uint8 [H, W, 3].
    Sources: ColTran (Kumar et al. 2021), UViM (Kolesnikov et al. 2022).
    """

    class Config(FeatureDistance.Config):
        size: int = Field(256, ge=1, description="pixels of the squares whose features are compared")
        value: str = Field("scored", description="which value of the answers is compared")

    TESTING: ClassVar = {"needs": "the file of a network"}
    tasks = ("colorization",)
    fields = ("image",)
    sampling = {"temperature": 1.0, "top_k": None, "top_p": None}
    config: Config

    def row(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**row, "image": centre_square(row["image"], self.task.image_size)}

    def example(self, example: Example) -> Example:
        return replace(example, inputs=_rescaled(example.inputs), targets=_rescaled(example.targets))

    def answer(self, prediction: Prediction, row: Mapping[str, Any]) -> Prediction:
        rgb = prediction.values["rgb"]
        levels = resize_area(rgb, (self.config.size, self.config.size)) / SCALE
        return prediction.with_values({"rgb": rgb, "scored": _pixels(levels)})

    def truth(self, row: Mapping[str, Any]) -> Prediction:
        rgb = _pixels(self.row(row)["image"] * SCALE)
        return Prediction(self.task, {"rgb": rgb, "scored": centre_square(row["image"], self.config.size)})

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"feature_distance": self.config.model_dump(), "color_error": {}}

    def save(self, answer: Prediction, row: Mapping[str, Any], number: int, folder: Path) -> None:
        """The picture whose features are compared, for other programs that do that."""
        files.write_png(folder / f"{number:06d}.png", answer.values["scored"])


def _rescaled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Pictures float [3, H, W] in [-1, 1], from level / 127.5 - 1 to level / 128 - 1."""
    return {name: ((value + 1) * np.float32(SCALE) - 1).astype(np.float32) for name, value in values.items()}


def _pixels(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.protocol("colorization_fid", ColorizationFid)
