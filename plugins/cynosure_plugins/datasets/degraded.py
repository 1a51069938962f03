"""Photographs, and what a camera would have made of them in poor light or wrongly set: pairs without downloads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from cynosure import hookimpl
from cynosure.core.contracts import Dataset, DatasetInfo, PartConfig
from cynosure_plugins.datasets.exposures import Exposure, gains_of
from cynosure_plugins.datasets.images import Images
from cynosure_plugins.datasets.looks import LOOKS, in_look
from cynosure_plugins.datasets.store import Row

Kind = Literal["low_light", "color_cast", "retouch"]
Look = Literal["neutral", "warm", "cool", "vivid", "faded", "contrast"]


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError("must be [lowest, highest]")
    return span


def _first_looks(value: Any) -> Any:
    counted = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= len(LOOKS)
    return tuple(LOOKS)[:value] if counted else value


Ordered = AfterValidator(_ordered)
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Kelvin = Annotated[float, Field(ge=1700, le=15000)]


class Degraded(Dataset):
    """Rows with `degraded` and `image`: a photograph as badly taken, and as it is.

    The kinds in `kinds` come together, each drawn anew, evenly, from its ranges: `low_light` (exposure, shot and read
    noise), `color_cast` (the light's temperature and tint), `retouch` (tone, contrast and saturation taken away). What
    is drawn is a pure function of (`seed`, copy, the photograph's pixels): no order, split or worker changes it.

    With `looks` a photograph has several good versions: a row for each, with the same `degraded`, the photograph in
    that look as `image`, and the look's number as `label`, which `classes` of the info names. The rows of a photograph
    follow one another. Splits and damaged files are as in dataset `images`.
    """

    class Config(PartConfig):
        photographs: Images.Config
        """The options of dataset `images`; `size` keeps the photographs decoded, and they are degraded as they come."""
        kinds: tuple[Kind, ...] = ("low_light",)
        """All that is done to a photograph; nothing leaves it as it is, for `looks`."""
        looks: Annotated[tuple[Look, ...], BeforeValidator(_first_looks)] = ()
        """Names, or how many of neutral, warm, cool, vivid, faded, contrast; none: the photograph is the answer."""
        copies: int = Field(1, ge=1)
        """Degraded versions of each photograph."""
        exposure: Annotated[tuple[float, float], Ordered] = (-4.0, -1.0)
        """Of 'low_light': stops, doublings of the light."""
        shot: Annotated[tuple[NotNegative, NotNegative], Ordered] = (0.0, 2e-3)
        """Of 'low_light': variance of the noise in a full signal, which it is in proportion to."""
        read: Annotated[tuple[NotNegative, NotNegative], Ordered] = (0.0, 4e-3)
        """Of 'low_light': standard deviation of the noise without any signal, as a share of a full one."""
        temperature: Annotated[tuple[Kelvin, Kelvin], Ordered] = (2850.0, 10000.0)
        """Of 'color_cast': kelvin of the light, drawn evenly in 1 / kelvin; 6504 is neutral."""
        tint: Annotated[tuple[float, float], Ordered] = (-0.01, 0.01)
        """Of 'color_cast': distance off the Planckian locus (Duv), pinkish below 0 and greenish above."""
        gamma: Annotated[tuple[Positive, Positive], Ordered] = (0.8, 1.4)
        """Of 'retouch': exponent of the tones, dull above 1."""
        contrast: Annotated[tuple[NotNegative, NotNegative], Ordered] = (0.6, 0.95)
        """Of 'retouch': slope of the tones, flat below 1."""
        saturation: Annotated[tuple[NotNegative, NotNegative], Ordered] = (0.4, 0.9)
        """Of 'retouch': times the colours, pale below 1."""
        seed: int = Field(0, ge=0)

        @field_validator("photographs")
        @classmethod
        def _counted(cls, photographs: Images.Config) -> Images.Config:
            if photographs.streaming:
                raise ValueError("photographs are counted to be degraded: set streaming to false")
            return photographs

        @model_validator(mode="after")
        def _something(self) -> Self:
            if not self.kinds and not self.looks:
                raise ValueError("kinds and looks are both empty: name one, or answer and picture are the same")
            return self

        def draw(self, rng: np.random.Generator) -> Exposure:
            """How one picture is taken; a kind that is not among `kinds` changes nothing of what others draw."""
            shares = iter(rng.random(8).tolist())

            def between(span: tuple[float, float]) -> float:
                return float(span[0] + next(shares) * (span[1] - span[0]))

            low, high = self.temperature
            stops, shot, read = between(self.exposure), between(self.shot), between(self.read)
            gains = gains_of(1 / between((1 / low, 1 / high)), between(self.tint))
            gamma, contrast, saturation = between(self.gamma), between(self.contrast), between(self.saturation)
            drawn: dict[Kind, dict[str, Any]] = {
                "low_light": {"stops": stops, "shot": shot, "read": read},
                "color_cast": {"gains": gains},
                "retouch": {"gamma": gamma, "contrast": contrast, "saturation": saturation},
            }
            return Exposure(**{name: value for kind in self.kinds for name, value in drawn[kind].items()})

    def __init__(self, config: Config) -> None:
        self.config = config
        self.photographs = Images(config.photographs)

    @property
    def info(self) -> DatasetInfo:
        looks = tuple((str(look), True) for look in self.config.looks)
        return DatasetInfo(name="degraded", fields=("degraded", "image", *["label"] * bool(looks)), classes=looks)

    def rows(self, split: str) -> DegradedRows:
        """Rows of 'train', 'validation' or 'test', with the columns of `info.fields`."""
        return DegradedRows(self.photographs.rows(split), self.config)

    def count(self, split: str) -> int | None:
        count = self.photographs.count(split)
        return None if count is None else count * versions(self.config)


class DegradedRows(Sequence[Row]):
    """Rows of `photographs`, each in all its versions; `skipped` has a sentence about every photograph left out."""

    def __init__(self, photographs: Any, config: Degraded.Config) -> None:
        self.photographs, self.config = photographs, config

    @property
    def skipped(self) -> Sequence[str]:
        return self.photographs.skipped

    @property
    def key(self) -> str:
        """What the photographs are made from."""
        return str(self.photographs.key)

    def __len__(self) -> int:
        return len(self.photographs) * versions(self.config)

    def __getitem__(self, index: Any) -> Any:
        photograph, version = divmod(range(len(self))[index], versions(self.config))
        copy, look = divmod(version, max(1, len(self.config.looks)))
        return self._row(self.photographs[photograph]["image"], copy, look)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def _row(self, image: np.ndarray, copy: int, look: int) -> Mapping[str, Any]:
        looks, degraded = self.config.looks, image
        if self.config.kinds:
            identity = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
            rng = np.random.default_rng((self.config.seed, copy, int.from_bytes(identity, "big")))
            degraded = self.config.draw(rng).take(image, rng)
        if not looks:
            return {"degraded": degraded, "image": image}
        return {"degraded": degraded, "image": in_look(image, looks[look]), "label": look}


def versions(config: Degraded.Config) -> int:
    """Rows of one photograph."""
    return config.copies * max(1, len(config.looks))


@hookimpl
def cynosure_register(register: Any) -> None:
    register.dataset("degraded", Degraded)
