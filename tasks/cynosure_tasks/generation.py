"""Generation: a picture out of nothing, of the class that a label names, or of a depth map or segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo
from cynosure.data.augment import row_name
from cynosure.errors import CynosureError, DataError, unknown
from cynosure_tasks.map_values import COLUMNS, MapConfig, read_map, require_labels, with_labels
from cynosure_tasks.pictures import PictureConfig, PictureTask


class Generation(PictureTask):
    """Labels are 0, 1, ...; where the data name their classes, in the order of these. Inputs that are maps: 'depth'
    float32 [H, W], the nearest 1 and the farthest -1; 'panoptic', the classes of a segmentation, int64 [H, W]."""

    class Config(PictureConfig, MapConfig):
        condition: Literal["none", "label", "depth", "segmentation"] = Field(
            "none", description="what a picture is made from"
        )
        classes: tuple[str, ...] = Field((), description="names of labels 0, 1, ...")

    name = "generation"
    fields: tuple[str, ...] = ("image",)
    inputs: tuple[str, ...] = ()
    config: Config

    def __init__(self, config: Config, image_size: tuple[int, int]) -> None:
        super().__init__(config, image_size)
        require_labels(config.condition, config)
        self.config = config
        if config.condition != "none":
            self.inputs = (COLUMNS.get(config.condition, config.condition),)
            self.fields = ("image", *self.inputs)

    @classmethod
    def configure(cls, options: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, Any]:
        condition = options.get("condition", "none")
        if condition == "none":
            return options
        if condition in COLUMNS:
            return with_labels(options, condition, info)
        if "label" not in info.fields:
            has = ", ".join(info.fields)
            raise CynosureError(f"dataset {info.name} has no labels, only {has}: set the task's condition to none.")
        return {"classes": tuple(name for name, _ in info.classes), **options}

    def read(self, row: Mapping[str, Any], name: str) -> np.int64 | np.ndarray:
        """A map, or the number of the label, which a row may also name."""
        if name in COLUMNS.values():
            return read_map(row, name, self.config)
        label, classes = row[name], self.config.classes
        if isinstance(label, str) and label in classes:
            return np.int64(classes.index(label))
        try:
            number = int(label)
        except (TypeError, ValueError):
            raise DataError(unknown("class", str(label), classes)) from None
        if number < 0 or (classes and number >= len(classes)):
            most = f"to {len(classes) - 1}" if classes else "and up"
            raise DataError(f"{row_name(row)}: there is no label {number}, labels are 0 {most}")
        return np.int64(number)

    def describe(self, inputs: Mapping[str, Any]) -> str:
        if "label" not in inputs:
            return ""
        label = int(self.read(inputs, "label"))
        return self.config.classes[label] if self.config.classes else f"label {label}"


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("generation", Generation)
