"""White balance: a picture as it would be under white light, by a colour transform for every pixel.

Sources: STAR (Zhang et al. 2021), whose third task it is; a camera's correction of raw colours is a 3 x 3 matrix; once
a picture is rendered the second-order polynomial of Afifi et al. 2019 fits better. Transforms that differ from pixel to
pixel also undo light from several lamps. Shapes: B batch, C maps, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.records import Batch, Prediction
from cynosure_tasks.picture_transform import PictureTransform, TransformConfig, unit
from cynosure_tasks.tiles import Change

TERMS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 0), (1, 1), (2, 2))
"""What a polynomial is made of: r, g, b, rg, rb, gb, r², g², b². A matrix has the first three."""
DARKEST = 1 / 255
"""Mean level of a colour below which nothing is known about the light."""


class WhiteBalance(PictureTransform):
    """Three maps for every term: what a pixel's red, green and blue get of it, in units of `reach`, besides themselves.

    As a matrix, maps 3j to 3j + 2 are its column j less that of the identity.
    """

    class Config(TransformConfig):
        transform: Literal["matrix", "polynomial"] = Field(
            "matrix", description="'matrix': 3 x 3, nine maps. 'polynomial': second-order terms too, 27 maps"
        )
        reach: float = Field(2.0, gt=0, description="how far coefficients may be from no change; 2 is a gain of 3")

    name = "white_balance"
    config: Config

    @property
    def channels(self) -> int:
        return 3 * (3 if self.config.transform == "matrix" else len(TERMS))

    def pointwise(self, maps: torch.Tensor) -> tuple[torch.Tensor, Change]:
        return maps, self._mix

    def _mix(self, picture: torch.Tensor, maps: Iterable[torch.Tensor], inplace: bool) -> torch.Tensor:
        colors = picture.split(1, dim=1)
        mixed = picture
        for shares, (first, *others) in zip(maps, TERMS, strict=False):
            term = colors[first]
            for other in others:
                term = term * colors[other]
            mixed = torch.addcmul(mixed, shares, term, value=self.config.reach)
        return mixed

    def baseline(self, batches: Iterator[Batch]) -> Callable[[Batch], list[Prediction]]:
        """Grey world: every picture's colours as bright on average as one another. And as bright as answers are: times
        one factor, learnt."""
        gain = self.mean_gain(batches)

        def answer(batch: Batch) -> list[Prediction]:
            picture = unit(batch.inputs["image"])
            means = picture.mean(dim=(2, 3), keepdim=True)
            return self._predictions(2 * gain * picture * means.mean(1, keepdim=True) / means.clamp(min=DARKEST) - 1)

        return answer


@hookimpl
def cynosure_register(register: Any) -> None:
    register.task("white_balance", WhiteBalance)
