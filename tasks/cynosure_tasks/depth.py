"""Monocular depth: for every pixel the distance to the camera plane in metres.

Source: UViM (Kolesnikov et al. 2022), which predicts 256 uniform bins; the 'log' encoding is ours, for small models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import log
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Task
from cynosure.core.records import Batch, Example, Prediction
from cynosure.data import files
from cynosure.data.augment import Augment, Resize, resize_linear, resize_nearest, row_image, row_name, to_model, view
from cynosure.data.labels import best_channel, cross_entropy, one_hot
from cynosure.errors import DataError


class Depth(Task):
    """`values` of a prediction: 'depth' float32 [H, W] in metres; in a truth 0 is missing."""

    class Config(PartConfig):
        encoding: Literal["bins", "log"] = Field(
            "bins",
            description="'bins': one channel a bin, cross-entropy (UViM). 'log': one channel, log depth scaled to "
            "[-1, 1], smooth L1; set min_depth and max_depth close to what the data holds",
        )
        bins: int = Field(256, ge=2, description="uniform bins between min_depth and max_depth; the first is missing")
        min_depth: float = Field(0.001, gt=0, description="metres")
        max_depth: float = Field(10.0, gt=0, description="metres; farther is clipped")
        augment: Augment = "inception"
        resize: Resize = "antialias"

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            if self.max_depth <= self.min_depth:
                raise ValueError(f"max_depth ({self.max_depth}) must be greater than min_depth ({self.min_depth})")
            return self

    name = "depth"
    fields = ("image", "depth")
    config: Config

    def __init__(self, config: Config, image_size: tuple[int, int]) -> None:
        self.config = config
        self.image_size = image_size
        self.span = config.max_depth - config.min_depth
        self.log_min, self.log_span = log(config.min_depth), log(config.max_depth / config.min_depth)

    @property
    def channels(self) -> int:
        return self.config.bins if self.config.encoding == "bins" else 1

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        """DataError where depth is no [H, W], NaN or infinite; negative depth is missing."""
        depth = None if row.get("depth") is None else np.asarray(row["depth"], dtype=np.float32)
        if depth is not None and depth.ndim != 2:
            raise DataError(f"{row_name(row)}: depth must be one number a pixel [H, W], not {list(depth.shape)}")
        if depth is not None and not np.isfinite(depth).all():
            raise DataError(f"{row_name(row)}: depth holds NaN or infinity; write 0 where depth is missing")
        how = self.config.augment if train else "none"
        image, depth = view(row_image(row), depth, self.image_size, rng, how, self.config.resize)
        targets = {} if depth is None else {"depth": np.maximum(depth, 0)}
        return Example({"image": to_model(image)}, targets)

    def to_bins(self, depth: torch.Tensor) -> torch.Tensor:
        """Metres -> bins int64 in [0, bins), of the same shape; missing depth falls into bin 0."""
        share = (depth - self.config.min_depth) / self.span
        return (share * self.config.bins).floor().clamp(0, self.config.bins - 1).long()

    def from_bins(self, bins: torch.Tensor) -> torch.Tensor:
        """Bins -> metres at their centres."""
        return self.config.min_depth + (bins + 0.5) / self.config.bins * self.span

    def to_log(self, depth: torch.Tensor) -> torch.Tensor:
        """Metres -> log depth in [-1, 1], clipped; missing depth counts as the farthest, like sky."""
        depth = torch.where(depth > 0, depth, self.config.max_depth)
        return ((depth.log() - self.log_min) / self.log_span * 2 - 1).clamp(-1, 1)

    def encode_targets(self, batch: Batch) -> torch.Tensor:
        depth = batch.targets["depth"]
        if self.config.encoding == "bins":
            return one_hot(self.to_bins(depth), self.config.bins)
        return self.to_log(depth)[:, None]

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """'bins': cross-entropy, 0 in bin 0, mean over all pixels. 'log': 4 * smooth L1, mean where depth is known.

        The latter is the mean over pictures of each picture's mean, so that half a batch and the whole agree.
        """
        depth = batch.targets["depth"]
        if self.config.encoding == "bins":
            bins = self.to_bins(depth)
            return {"depth": (cross_entropy(outputs, bins) * (bins > 0)).mean()}
        error = F.smooth_l1_loss(outputs[:, 0].float(), self.to_log(depth), beta=0.05, reduction="none")
        known = depth > 0
        pictures = (error * known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)
        return {"depth": 4 * pictures.mean()}

    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        if self.config.encoding == "bins":
            return self._predictions(self.from_bins(best_channel(outputs.detach())))
        logs = (outputs.detach()[:, 0].float().clamp(-1, 1) + 1) / 2 * self.log_span + self.log_min
        return self._predictions(logs.exp())

    def truth(self, batch: Batch) -> list[Prediction]:
        return self._predictions(batch.targets["depth"])

    def _predictions(self, depth: torch.Tensor) -> list[Prediction]:
        return [Prediction(self, {"depth": d}) for d in depth.float().cpu().numpy()]

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"depth_error": {"min_depth": self.config.min_depth, "max_depth": self.config.max_depth}}

    def baseline(self, batches: Iterator[Batch]) -> Callable[[Batch], list[Prediction]]:
        """The mean depth of every pixel; the overall mean where a pixel never had depth."""
        total, count = torch.zeros(2, *self.image_size, dtype=torch.float64)
        for batch in batches:
            depth = batch.targets["depth"][batch.valid].cpu()
            total += depth.sum(0)
            count += (depth > 0).sum(0)
        overall = total.sum() / count.sum() if count.any() else torch.tensor(self.config.max_depth)
        mean = torch.where(count > 0, total / count.clamp(min=1), overall)
        return lambda batch: self._predictions(mean.expand(len(batch), -1, -1))

    def restore(self, prediction: Prediction, image: np.ndarray) -> Prediction:
        """Nearest neighbours with `resize: uvim`, as UViM evaluates; otherwise between neighbours, without steps."""
        how = resize_nearest if self.config.resize == "uvim" else resize_linear
        return prediction.with_values({"depth": how(prediction.values["depth"], (image.shape[0], image.shape[1]))})

    def comparable(self, prediction: Prediction, truth: Prediction) -> Prediction:
        """Depth where the truth has some: elsewhere, as in the sky, nothing is learnt and nothing is measured."""
        return prediction.with_values({"depth": prediction.values["depth"] * (truth.values["depth"] > 0)})

    def draw(self, prediction: Prediction) -> np.ndarray:
        """Warm is near, blue is far, on one scale for all pictures: max_depth / 20 to max_depth."""
        return files.depth_to_rgb(prediction.values["depth"], self.config.max_depth / 20, self.config.max_depth)

    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """path.png in millimetres (16 bit, 0 is missing or NaN, clipped at 65.535 m) and path_color.png to look at."""
        depth = np.nan_to_num(prediction.values["depth"], nan=0)
        millimetres = np.clip(np.rint(depth * 1000), 0, 65535).astype(np.uint16)
        png = files.write_png(path, millimetres)
        return [png, files.write_png(png.with_name(f"{png.stem}_color.png"), self.draw(prediction))]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("depth", Depth)
