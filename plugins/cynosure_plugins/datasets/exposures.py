"""How a camera takes a picture: the light it sees by, the time it has, its noise, and the rendering to sRGB.

Light is linear up to the rendering. Shot noise is normal with a variance in proportion to the signal, as in Brooks et
al. 2019 (Unprocessing Images for Learned Raw Denoising); colours are adapted channel by channel (von Kries) in linear
sRGB; the Planckian locus is Krystek's (1985) in CIE 1960 (u, v), good from 1,000 to 15,000 K.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Gains = tuple[float, float, float]
DAYLIGHT = 6504.0
"""Kelvin of the light that pictures are taken to be balanced for."""
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
_XYZ_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
_STEPS = 1 << 14
"""Of linear light in the table that renders it: five in the narrowest of the 256 levels."""
_FAINTEST = 0.02
"""Of a gain: light far from the locus lies outside sRGB, and would have less than none of a colour."""


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """Displayed values in [0, 1] -> linear light (IEC 61966-2-1)."""
    return np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)


def linear_to_srgb(light: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] -> displayed values, inverse to `srgb_to_linear`."""
    return np.where(light > 0.0031308, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055, light * 12.92)


_LIGHT = srgb_to_linear(np.arange(256) / 255)
_DISPLAYED = linear_to_srgb(np.arange(_STEPS) / (_STEPS - 1))


@dataclass(frozen=True)
class Exposure:
    """How one picture is taken; the defaults change nothing.

    `stops` doublings of the light and `gains` of red, green and blue light; the noise's `shot` variance of a full
    signal and `read` standard deviation; `saturation` times the colours in linear light; `gamma` exponent of displayed
    values (above 1 darkens the middle) and `contrast` slope of them about one half.
    """

    stops: float = 0.0
    gains: Gains = (1.0, 1.0, 1.0)
    shot: float = 0.0
    read: float = 0.0
    saturation: float = 1.0
    gamma: float = 1.0
    contrast: float = 1.0

    def take(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The good picture uint8 [H, W, 3] as it is taken so, of the same shape."""
        planes = np.ascontiguousarray(image.transpose(2, 0, 1)).reshape(3, -1)
        # A pixel has 256 values: what depends on it alone is looked up instead of computed.
        signal = np.minimum(np.outer(self.gains, _LIGHT * 2.0**self.stops), 1).astype(np.float32)
        noisy = self.shot > 0 or self.read > 0
        if noisy or self.saturation != 1:
            light = _look_up(signal, planes)
            if noisy:
                noise = rng.standard_normal(light.shape, np.float32)
                noise *= _look_up(np.sqrt(np.float32(self.shot) * signal + np.float32(self.read**2)), planes)
                light += noise
            levels = self._rendered(self._colored(light))
        else:
            levels = _look_up(self._rendered(signal), planes)
        return np.ascontiguousarray(levels.reshape(3, *image.shape[:2]).transpose(1, 2, 0))

    def _colored(self, light: np.ndarray) -> np.ndarray:
        if self.saturation == 1:
            return light
        grey = _LUMINANCE @ light
        return grey + np.float32(self.saturation) * (light - grey)

    def _rendered(self, light: np.ndarray) -> np.ndarray:
        """Linear light -> levels uint8."""
        steps = np.clip(light * np.float32(_STEPS - 1) + np.float32(0.5), 0, _STEPS - 1).astype(np.uint16)
        return _rendering(self.gamma, self.contrast).take(steps)


def gains_of(temperature: float, tint: float = 0.0) -> Gains:
    """What light of `temperature` K does to linear red, green and blue of a picture balanced for daylight.

    `tint` is the distance off the Planckian locus in (u, v), Duv: above 0 greenish, below pinkish. Luminance stays.
    """
    gains = np.maximum(_color(temperature, tint) / _color(DAYLIGHT, 0.0), _FAINTEST)
    red, green, blue = (gains / (gains @ _LUMINANCE)).tolist()
    return red, green, blue


def _color(temperature: float, tint: float) -> np.ndarray:
    """Linear sRGB of a light."""
    u, v = _locus(temperature)
    along = np.subtract(_locus(temperature + 1), (u, v))
    across = np.array([along[1], -along[0]]) / np.hypot(*along)
    u, v = (u, v) + tint * across
    x, y = 3 * u / (2 * u - 8 * v + 4), 2 * v / (2 * u - 8 * v + 4)
    return _XYZ_TO_RGB @ np.array([x / y, 1.0, (1 - x - y) / y])


def _locus(t: float) -> tuple[float, float]:
    u = (0.860117757 + 1.54118254e-4 * t + 1.28641212e-7 * t * t) / (1 + 8.42420235e-4 * t + 7.08145163e-7 * t * t)
    v = (0.317398726 + 4.22806245e-5 * t + 4.20481691e-8 * t * t) / (1 - 2.89741816e-5 * t + 1.61456053e-7 * t * t)
    return u, v


def _look_up(tables: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Of every channel, by its own table: [3, 256], [3, N] -> [3, N]."""
    return np.stack([table.take(plane) for table, plane in zip(tables, planes, strict=True)])


@lru_cache(maxsize=1)
def _plain() -> np.ndarray:
    return np.rint(_DISPLAYED * 255).astype(np.uint8)


def _rendering(gamma: float, contrast: float) -> np.ndarray:
    """Steps of linear light -> levels uint8 [_STEPS]."""
    if gamma == contrast == 1:
        return _plain()
    values = 0.5 + contrast * (_DISPLAYED**gamma - 0.5)
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
