"""Depth as UViM measures it on NYU Depth v2: crop, errors of every frame, then their mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Protocol
from cynosure.core.records import Prediction
from cynosure.data.augment import resize_nearest, row_name
from cynosure.errors import DataError

FRAME = (480, 640)
"""(H, W) pixels of a frame of NYU Depth v2."""
CROPS = {
    "uvim": (slice(54, 480), slice(41, 601)),
    "eigen": (slice(45, 471), slice(41, 601)),
}
"""(rows, columns) of a frame that count: 426 x 560 pixels both."""


class NyuDepth(Protocol):
    """The crop of a frame is all that the model is shown; its answer returns to the crop's 426 x 560 pixels by nearest
    neighbours. Pixels count where 0.001 < truth < 10 metres. Codes are the likeliest.

    Sources: Eigen et al. 2014 (crop and errors), UViM (Kolesnikov et al. 2022; its crop begins nine rows lower).
    """

    class Config(PartConfig):
        crop: Literal["uvim", "eigen"] = Field(
            "uvim",
            description="'uvim': rows 54 to 479, as UViM's code has it. 'eigen': rows 45 to 470, as is customary",
        )

    TESTING: ClassVar = {"size": FRAME}
    tasks = ("depth",)
    fields = ("image", "depth")
    sampling = {"temperature": 0.0, "top_k": None, "top_p": None}
    config: Config

    def row(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The crop of image and depth; DataError for a frame that is not of 480 x 640 pixels."""
        if (size := row["image"].shape[:2]) != FRAME:
            raise DataError(
                f"{row_name(row)} is of {size[0]} x {size[1]} pixels, but protocol nyu_depth cuts frames of 480 x 640: "
                "keep the dataset's own size (`size: null`)"
            )
        crop = CROPS[self.config.crop]
        return {**row, "image": row["image"][crop], "depth": row["depth"][crop]}

    def answer(self, prediction: Prediction, row: Mapping[str, Any]) -> Prediction:
        size = self.row(row)["depth"].shape
        return prediction.with_values({"depth": resize_nearest(prediction.values["depth"], size)})

    def truth(self, row: Mapping[str, Any]) -> Prediction:
        return Prediction(self.task, {"depth": self.row(row)["depth"]})

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"depth_error": {"min_depth": 0.001, "max_depth": 10.0}}


@hookimpl
def cynosure_register(register: Any) -> None:
    register.protocol("nyu_depth", NyuDepth)
