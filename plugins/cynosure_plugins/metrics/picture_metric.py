"""What metrics share that compare a picture with the true one, pixel by pixel."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cynosure.core.contracts import PartConfig
from cynosure.core.metrics import MeanMetric

Column = Literal["oracle", "prior", "random", "none", "baseline"]


class PictureMetric(MeanMetric):
    """A mean over pictures, built with its config and its name."""

    class Config(PartConfig):
        columns: tuple[Column, ...] | None = Field(
            None,
            min_length=1,
            description="the columns of a report to measure; null: all. Tasks whose samples may well be other pictures"
            " than the true one leave `prior` and `random` out",
        )

    compares = ("rgb",)

    def __init__(self, config: Config, name: str) -> None:
        super().__init__(name)
        self.columns = config.columns
