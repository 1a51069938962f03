"""Disentanglement: what the codes of pictures tell of the factors that the pictures were made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Protocol
from cynosure.core.records import Prediction
from cynosure.data.augment import to_pixels


class Disentanglement(Protocol):
    """InfoMEC (Hsu et al. 2023) of the tokenizer's codes, and PSNR of the pictures that they stand for.

    Rows need `factors` int [S], as the dataset `scene_factors` has them.
    """

    class Config(PartConfig):
        pass

    TESTING: ClassVar = {"needs": "a dataset with factors"}
    tasks = ("generation",)
    fields = ("factors",)

    def answer(self, prediction: Prediction, row: Mapping[str, Any]) -> Prediction:
        return prediction

    def truth(self, row: Mapping[str, Any]) -> Prediction:
        """The picture as the model sees it, and its factors."""
        seen = self.task.prepare(row, np.random.default_rng(0), False).targets["rgb"]
        return Prediction(self.task, {"rgb": to_pixels(seen), "factors": row["factors"]})

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"infomec": {}, "psnr": self.task.metrics()["psnr"]}


@hookimpl
def cynosure_register(register: Any) -> None:
    register.protocol("disentanglement", Disentanglement)
