"""Panoptic segmentation as UViM defines it: for every pixel a class and the number of the segment it belongs to.

Raw outputs are C = (classes + void) semantic channels followed by `max_instances` instance channels (0 is none).
Source: UViM (Kolesnikov et al. 2022), section 3 and appendix; PQ is Kirillov et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo, PartConfig, Task
from cynosure.core.records import Batch, Example, Prediction
from cynosure.data import files
from cynosure.data.augment import Augment, Resize, resize_nearest, row_image, to_model, view
from cynosure.data.labels import best_channel, cross_entropy, merge_stuff, one_hot, order_segments
from cynosure.errors import DataError


class Panoptic(Task):
    """`values` of a prediction: 'class' and 'instance', both int32 [H, W], 0 is void and none."""

    class Config(PartConfig):
        classes: tuple[tuple[str, bool], ...] = Field((), description="(name, is a thing) of class ids 1, 2, ...")
        category_ids: tuple[int, ...] = Field((), description="the dataset's own id of every class, for saved files")
        max_instances: int = Field(100, ge=2, description="instance channels, number 0 included")
        stuff: Literal["number", "class"] = Field(
            "number",
            description="'number': stuff segments are numbered like things and every number gets one class (UViM). "
            "'class': number 0 is all stuff, classified pixel by pixel, other numbers are things; easier to learn",
        )
        id_order: Literal["y", "x"] = Field("y", description="number segments top to bottom (UViM) or left to right")
        thing_weight: float = Field(1.0, gt=0, description="weight of thing pixels in the loss; small models want 5")
        crowds: Literal["void", "segment"] = Field(
            "void",
            description="what training sees in a crowd, a region of many things that nobody told apart: void, or one "
            "more segment of its class (UViM); evaluation always tells crowds from segments",
        )
        min_fraction: float = Field(0.0, ge=0, lt=1, description="segments of at most this share become void")
        augment: Augment = "inception"
        resize: Resize = "antialias"

    name = "panoptic"
    fields = ("image", "panoptic")
    config: Config

    def __init__(self, config: Config, image_size: tuple[int, int]) -> None:
        if not config.classes:
            raise DataError("panoptic has no classes: set its `classes` or train on a dataset that declares them")
        self.config = config
        self.image_size = image_size
        self.semantics = len(config.classes) + 1
        self.is_thing = np.array([False, *(thing for _, thing in config.classes)])

    @classmethod
    def configure(cls, options: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, Any]:
        return {"classes": info.classes, "category_ids": info.category_ids, **options}

    @property
    def channels(self) -> int:
        return self.semantics + self.config.max_instances

    def _things(self, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(self.is_thing).to(device)

    def prepare(self, row: Mapping[str, Any], rng: np.random.Generator, train: bool) -> Example:
        labels = None if row.get("panoptic") is None else np.asarray(row["panoptic"])
        if labels is not None and train and self.config.crowds == "segment" and row.get("crowd") is not None:
            labels = _with_crowds(labels, np.asarray(row["crowd"]))
        how = self.config.augment if train else "none"
        image, labels = view(row_image(row), labels, self.image_size, rng, how, self.config.resize)
        targets = {} if labels is None else {"panoptic": self.number(labels)}
        return Example({"image": to_model(image)}, targets)

    def number(self, labels: np.ndarray) -> np.ndarray:
        """(class, any id) [H, W, 2] -> (class, number) int16 [2, H, W]; segments that share an id across classes part.

        The number of void is 0 whatever its id; where class or id is negative, which means no label at all, it is -1.
        Numbers may exceed `max_instances`: such segments carry no loss, but stay in the truth.
        """
        classes, ids = labels[..., 0].astype(np.int64), labels[..., 1].astype(np.int64)
        if classes.max() >= self.semantics:
            raise DataError(f"panoptic holds class {classes.max()}, but only {self.semantics - 1} classes are declared")
        numbered = self.is_thing.take(classes, mode="clip") if self.config.stuff == "class" else classes > 0
        segments = np.where(numbered, classes + ids * self.semantics, 0)
        segments[(classes < 0) | (ids < 0)] = -1
        return np.stack([classes, order_segments(segments, self.config.id_order)], dtype=np.int16, casting="unsafe")

    def encode_targets(self, batch: Batch) -> torch.Tensor:
        """One-hot classes, then one-hot numbers; a row of zeros where the label is out of range."""
        labels = batch.targets["panoptic"].long()
        sizes = (self.semantics, self.config.max_instances)
        return torch.cat([one_hot(labels[:, i], size) for i, size in enumerate(sizes)], dim=1)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Cross-entropy of classes and of numbers, each the mean over all pixels; out of range adds 0 to the mean."""
        labels = batch.targets["panoptic"].long()
        thing = self._things(outputs.device)[labels[:, 0].clamp(0)]
        weight = torch.where(thing, self.config.thing_weight, 1.0)
        semantics, instances = self._split(outputs)
        return {
            "semantics": (weight * cross_entropy(semantics, labels[:, 0])).mean(),
            "instances": (weight * cross_entropy(instances, labels[:, 1])).mean(),
        }

    def decode(self, outputs: torch.Tensor, batch: Batch) -> list[Prediction]:
        """Numbers by arg-max of every pixel; a segment's class is the arg-max of its pixels' summed class logits."""
        semantics, instances = self._split(outputs.detach().float())
        numbers = best_channel(instances)
        classes = self._classify(semantics, numbers)
        if self.config.min_fraction > 0:
            share = (
                _sum_by_number(torch.ones_like(semantics[:, :1]), numbers, self.config.max_instances)
                / numbers[0].numel()
            )
            small = (share[..., 0] <= self.config.min_fraction).gather(1, numbers.flatten(1)).view_as(numbers)
            classes, numbers = classes.masked_fill(small, 0), numbers.masked_fill(small, 0)
        return self._predictions(classes, numbers)

    def _classify(self, semantics: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Class logits [B, S, H, W] and numbers [B, H, W] -> classes [B, H, W], by the rule for `stuff`."""
        votes = _sum_by_number(semantics, numbers, self.config.max_instances)
        if self.config.stuff == "number":
            return votes.argmax(dim=-1).gather(1, numbers.flatten(1)).view_as(numbers)
        thing = self._things(semantics.device)
        things = votes.masked_fill(~thing, -torch.inf).argmax(dim=-1).gather(1, numbers.flatten(1)).view_as(numbers)
        stuff = best_channel(semantics.masked_fill(thing[:, None, None], -torch.inf))
        return torch.where(numbers == 0, stuff, things)

    def _split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return outputs.split([self.semantics, self.config.max_instances], dim=1)

    def truth(self, batch: Batch) -> list[Prediction]:
        labels = batch.targets["panoptic"].clamp(min=0)
        return self._predictions(labels[:, 0], labels[:, 1])

    def _predictions(self, classes: torch.Tensor, numbers: torch.Tensor) -> list[Prediction]:
        pairs = zip(classes.int().cpu().numpy(), numbers.int().cpu().numpy(), strict=True)
        return [Prediction(self, {"class": c, "instance": i}) for c, i in pairs]

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"panoptic_quality": {"classes": self.config.classes}}

    def baseline(self, batches: Iterator[Batch]) -> Callable[[Batch], list[Prediction]]:
        """The most frequent class of every pixel, one segment a class."""
        count = torch.zeros(self.semantics, *self.image_size)
        for batch in batches:
            count += one_hot(batch.targets["panoptic"][:, 0].long(), self.semantics)[batch.valid].sum(0)
        commonest = count.argmax(0)
        return lambda batch: self._predictions(*[commonest.expand(len(batch), -1, -1)] * 2)

    def restore(self, prediction: Prediction, image: np.ndarray) -> Prediction:
        size = (image.shape[0], image.shape[1])
        return prediction.with_values({k: resize_nearest(v, size) for k, v in prediction.values.items()})

    def draw(self, prediction: Prediction) -> np.ndarray:
        """Stuff in a soft colour a class, things in a strong one a number, thin dark outlines."""
        ids, pairs = self._segments(prediction)
        soft, strong = files.palette(self.semantics, vivid=False), files.palette(32, vivid=True)
        colors = [strong[n % len(strong)] if self.is_thing[c] else soft[c] for c, n in pairs]
        return files.outline(np.array([files.VOID, *colors], dtype=np.uint8)[ids], ids)

    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """COCO panoptic format: segment ids as R + 256 G + 256**2 B in path.png, what they are in path.json."""
        ids, pairs = self._segments(prediction)
        labels = pairs[:, 0].tolist()
        return files.write_coco_panoptic(path, ids, labels, self.config.classes, self.config.category_ids)

    def _segments(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        return merge_stuff(prediction.values["class"], prediction.values["instance"], self.is_thing)


def _with_crowds(labels: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(class, id) [H, W, 2] with the class of crowds [H, W] where that is not 0, under an id that no segment has."""
    segments = np.stack([crowd, np.full_like(crowd, labels[..., 1].max() + 1)], axis=-1)
    return np.where(crowd[..., None] > 0, segments, labels)


def _sum_by_number(values: torch.Tensor, numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Values [B, C, H, W] summed over the pixels of each number in [0, count): [B, count, C]."""
    index = numbers.flatten(1)[..., None].expand(-1, -1, values.shape[1])
    return values.new_zeros(len(values), count, values.shape[1]).scatter_add_(
        1, index, values.flatten(2).transpose(1, 2)
    )


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("panoptic", Panoptic)
