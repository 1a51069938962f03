"""Panoptic quality at the pictures' own size, with COCO's rules for crowds and void, as UViM measures it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Protocol, Task
from cynosure.core.records import Prediction
from cynosure.data import files
from cynosure.data.augment import resize_nearest
from cynosure.data.labels import merge_stuff
from cynosure_plugins.protocols.panoptic_files import write_two_channel

NAME = "panoptic"
"""Saved answers are NAME.json and a folder NAME beside it, which is where panopticapi looks for them."""


class CocoPanoptic(Protocol):
    """Answers are filtered at the model's resolution and brought to the picture's own by nearest neighbours. PQ, SQ and
    RQ are means over the classes that occur, over all, things and stuff. Codes are the likeliest.

    Sources: Kirillov et al. 2019 and the rules of the COCO panoptic task; UViM (Kolesnikov et al. 2022).
    """

    class Config(PartConfig):
        min_fraction: float = Field(
            0.0,
            ge=0,
            lt=1,
            description="segments of at most this share of the picture become void; UViM's code: 0, with 0.0009 beside "
            "it as a comment; its paper: 0.001",
        )
        merge_stuff: bool = Field(
            False, description="join the stuff segments of a class; COCO asks for that, UViM does not do it"
        )
        format: Literal["rgb", "two_channel"] = Field(
            "rgb",
            description="what --save writes: 'rgb' is panoptic.json and panoptic/*.png of segment ids, "
            "'two_channel' only PNGs of (category, number, 0)",
        )

    tasks = ("panoptic",)
    fields = ("panoptic", "crowd", "image_id", "file_name")
    sampling = {"temperature": 0.0, "top_k": None, "top_p": None}
    config: Config

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        options: Any = task.config
        self.classes: tuple[tuple[str, bool], ...] = options.classes
        self.category_ids = tuple(options.category_ids) or tuple(range(1, len(self.classes) + 1))
        is_thing = [False, *(thing for _, thing in self.classes)]
        self.numbered = np.array(is_thing) if config.merge_stuff else np.ones(len(is_thing), dtype=bool)

    def answer(self, prediction: Prediction, row: Mapping[str, Any]) -> Prediction:
        values = prediction.values
        ids, _ = merge_stuff(values["class"], values["instance"], self.numbered)
        small = np.bincount(ids.ravel()) <= self.config.min_fraction * ids.size
        kept = np.stack([np.where(small[ids], 0, values[name]) for name in ("class", "instance")], axis=-1)
        kept = resize_nearest(kept, row["panoptic"].shape[:2])
        return prediction.with_values({"class": kept[..., 0], "instance": kept[..., 1]})

    def truth(self, row: Mapping[str, Any]) -> Prediction:
        labels = {"class": row["panoptic"][..., 0], "instance": row["panoptic"][..., 1], "crowd": row["crowd"]}
        return Prediction(self.task, labels)

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"panoptic_quality": {"classes": self.classes, "merge_stuff": self.config.merge_stuff}}

    def save(self, answer: Prediction, row: Mapping[str, Any], number: int, folder: Path) -> dict[str, Any]:
        """One PNG; returns its picture and annotation as COCO's JSON has them."""
        classes, numbers = answer.values["class"], answer.values["instance"]
        path = folder / NAME / Path(row["file_name"]).with_suffix(".png").name
        height, width = classes.shape
        picture = {"id": row["image_id"], "file_name": path.name, "height": height, "width": width}
        if self.config.format == "two_channel":
            write_two_channel(path, classes, numbers, self.category_ids)
            return {"image": picture}
        ids, pairs = merge_stuff(classes, numbers, self.numbered)
        files.write_png(path, files.ids_to_rgb(ids))
        segments = files.coco_segments(ids, pairs[:, 0].tolist(), self.category_ids)
        return {
            "image": picture,
            "annotation": {"image_id": row["image_id"], "file_name": path.name, "segments_info": segments},
        }

    def index(self, saved: Sequence[Any], folder: Path) -> None:
        """The JSON that panopticapi's pq_computation takes, or with 'two_channel' its list of pictures."""
        document = {
            "images": [record["image"] for record in saved],
            "annotations": [record["annotation"] for record in saved if "annotation" in record],
            "categories": files.coco_categories(self.classes, self.category_ids),
        }
        (folder / f"{NAME}.json").write_text(json.dumps(document) + "\n", encoding="utf-8")


@hookimpl
def cynosure_register(register: Any) -> None:
    register.protocol("coco_panoptic", CocoPanoptic)
