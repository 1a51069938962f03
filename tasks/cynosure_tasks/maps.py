"""Depth maps and segmentations as pictures of their own: codes that pictures are later made from.

Source: VQGAN (Esser et al. 2021, section 3.2), whose conditions with an extent in space have a VQGAN of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo
from cynosure.core.records import Batch, Example, Prediction
from cynosure.data import files
from cynosure.data.augment import to_pixels
from cynosure.data.labels import best_channel, cross_entropy, one_hot
from cynosure_tasks.map_values import COLUMNS, MapConfig, read_map, require_labels, with_labels
from cynosure_tasks.pictures import PictureConfig, PictureTask, resized


class Maps(PictureTask):
    """`values` of a prediction: 'rgb' uint8 [H, W, 3], a depth map in grey, near is bright, or classes in colours.

    Depth maps have the losses l1 and l2, segmentations always the cross entropy of their classes. Networks see what
    encoder `codes` shows its own: one plane in [-1, 1], or one a class, 0 or 1.
    """

    class Config(PictureConfig, MapConfig):
        kind: Literal["depth", "segmentation"] = Field("depth", description="which maps")

        @model_validator(mode="after")
        def _own_losses(self) -> Self:
            if self.cross_entropy:
                raise ValueError(
                    "cross_entropy is for colours: depth maps have l1 and l2, segmentations their own loss"
                )
            return self

    name = "maps"
    fields: tuple[str, ...] = ()
    inputs = ()
    config: Config

    def __init__(self, config: Config, image_size: tuple[int, int]) -> None:
        super().__init__(config, image_size)
        require_labels(config.kind, config)
        self.config = config
        self.column = COLUMNS[config.kind]
        self.fields = (self.column,)

    @classmethod
    def configure(cls, options: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, Any]:
        return with_labels(options, options.get("kind", "depth"), info)

    @property
    def channels(self) -> int:
        return 1 if self.config.kind == "depth" else self.config.labels

    @property
    def judgeable(self) -> bool:
        return self.config.kind == "depth"

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        if row.get(self.column) is None:
            return Example({}, {})
        plane = read_map(row, self.column, self.config)
        return Example({}, {"map": resized(self._part(plane.shape, rng, train)(plane), self.image_size)})

    def encode_targets(self, batch: Batch) -> torch.Tensor:
        values = batch.targets["map"]
        return values[:, None] if self.config.kind == "depth" else one_hot(values, self.config.labels)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        values = batch.targets["map"]
        if self.config.kind == "segmentation":
            return {"cross_entropy": cross_entropy(outputs, values).mean()}
        error = outputs[:, 0].float() - values
        terms = {"l1": self.config.l1 * error.abs().mean(), "l2": self.config.l2 * error.square().mean()}
        return {name: value for name, value in terms.items() if getattr(self.config, name)}

    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        planes = outputs.detach().float()
        if self.config.kind == "depth":
            pictures = [to_pixels(plane.repeat(3, 0)) for plane in planes.cpu().numpy()]
        else:
            colours = np.array(files.palette(self.config.labels, vivid=False), dtype=np.uint8)
            pictures = list(colours[best_channel(planes).cpu().numpy()])
        return [Prediction(self, {"rgb": picture}) for picture in pictures]

    def truth(self, batch: Batch) -> list[Prediction]:
        return self.decode(self.encode_targets(batch), batch)

    def baseline(self, batches: Iterator[Batch]) -> Callable[[Batch], list[Prediction]]:
        """The mean depth, or the commonest class, of every pixel."""
        total = torch.zeros(self.channels, *self.image_size)
        count = 0
        for batch in batches:
            total += self.encode_targets(batch)[batch.valid].sum(0).cpu()
            count += int(batch.valid.sum())
        mean = total / max(count, 1)
        return lambda batch: self.decode(mean.expand(len(batch), -1, -1, -1), batch)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("maps", Maps)
