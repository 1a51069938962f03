"""Enhancement: a dark picture as it would be well exposed, by curves for every pixel that a small network writes.

Sources: Zero-DCE (Guo et al. 2020), STAR (Zhang et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo
from cynosure.core.records import Batch
from cynosure.errors import CynosureError
from cynosure_tasks.curves import curve_change, curve_channels
from cynosure_tasks.enhancement_losses import SHARED_SMOOTHNESS, WEIGHTS, WELL_EXPOSED, Formulas, zero_reference
from cynosure_tasks.picture_transform import PictureTransform, TransformConfig, unit
from cynosure_tasks.tiles import Change

Weight = float | None


class Enhancement(PictureTransform):
    """Maps are curves, which bend the levels of a picture. Losses without reference need no answers."""

    class Config(TransformConfig):
        reference: Literal["supervised", "zero"] = Field(
            "supervised", description="'zero' learns from dark pictures alone (Zero-DCE)"
        )
        shared: bool = Field(False, description="one map of curves for all eight steps (Zero-DCE++), not eight")
        formulas: Formulas = Field("coded", description="of 'zero': as in Zero-DCE's code, or in its paper")
        color: Weight = Field(None, ge=0, description="weight of colour constancy; null: 0, or as the formulas have it")
        spatial: Weight = Field(None, ge=0, description="of 'zero': weight; null: as the formulas have it")
        exposure: Weight = Field(None, ge=0, description="of 'zero': weight; null: as the formulas have it")
        smoothness: Weight = Field(None, ge=0, description="of 'zero': weight; null: as the formulas have it")
        level: float = Field(WELL_EXPOSED, gt=0, lt=1, description="of 'zero': grey of a good exposure")

        @property
        def supervised(self) -> bool:
            return self.reference == "supervised"

        def weights(self) -> dict[str, float]:
            if self.supervised:
                return {**super().weights(), "color": self.color or 0.0}
            usual = dict(WEIGHTS[self.formulas])
            if self.shared and self.formulas == "coded":
                usual["smoothness"] = SHARED_SMOOTHNESS
            given = {name: getattr(self, name) for name in usual}
            return usual | {name: weight for name, weight in given.items() if weight is not None}

    name = "enhancement"
    fields: tuple[str, ...] = ("degraded",)
    config: Config

    def __init__(self, config: Config, image_size: tuple[int, int]) -> None:
        super().__init__(config, image_size)
        if config.supervised:
            self.fields = ("degraded", "image")

    @classmethod
    def configure(cls, options: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, Any]:
        if options.get("reference", "supervised") == "supervised" and "image" not in info.fields:
            raise CynosureError(f"dataset {info.name} has no answers (image): set the task's reference to zero.")
        return options

    @property
    def channels(self) -> int:
        return curve_channels(self.config.shared)

    def pointwise(self, maps: torch.Tensor) -> tuple[torch.Tensor, Change]:
        return maps, curve_change(self.channels)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """Zero-DCE's losses, or STAR's against the answer; of pictures in [0, 1]."""
        config = self.config
        if config.supervised:
            return super().loss(outputs, batch)
        picture, curves = unit(batch.inputs["image"]), outputs.float().clamp(-1, 1)
        enhanced = self.changed(picture, curves)
        return zero_reference(enhanced, picture, curves, config.weights(), config.formulas, config.level)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("enhancement", Enhancement)
