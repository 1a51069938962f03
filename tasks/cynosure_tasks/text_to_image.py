"""Text to image: a picture that shows what a sentence says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cynosure import hookimpl
from cynosure.data.augment import row_name
from cynosure.errors import DataError
from cynosure_tasks.pictures import Augment, PictureConfig, PictureTask


class TextToImage(PictureTask):
    """Not mirrored in training unless asked for: captions may say what is left and right."""

    class Config(PictureConfig):
        augment: Augment = "none"

    name = "text_to_image"
    fields = ("image", "caption")
    inputs = ("caption",)
    config: Config

    def read(self, row: Mapping[str, Any], name: str) -> Any:
        if not isinstance(row[name], str):
            raise DataError(f"{row_name(row)}: {name} must be a string, not {type(row[name]).__name__}")
        return row[name]

    def describe(self, inputs: Mapping[str, Any]) -> str:
        return inputs.get("caption", "")


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("text_to_image", TextToImage)
