"""Random numbers that depend on (seed, index, position) alone, drawn for a whole batch at once.

A counter-based generator needs no state: SplitMix64 (Steele, Lea, Flood 2014) turns the key of a scene plus a counter
into 64 well mixed bits. All scenes of a batch share one vectorised call, and no scene sees its neighbours, which is
what makes a scene the same in every batch.
"""

from functools import cache

import numpy as np

Floats = np.ndarray
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def _mix(bits: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser, in place on a uint64 array."""
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits


@cache
def _normal_quantiles() -> np.ndarray:
    """float32[65536]: the standard normal quantile of the middle of each of 65536 equal slices of probability."""
    z = np.linspace(-5, 5, 20001)
    mass = np.cumsum(np.exp(-z * z / 2))
    return np.interp((np.arange(65536) + 0.5) / 65536, mass / mass[-1], z).astype(np.float32)


class Draws:
    """The random numbers of scenes `indices` under `seed`; every method returns [B, *shape] and moves on.

    `stream` separates independent uses of one scene (its layout, its noise, its caption), so that a change in how many
    numbers one of them draws leaves the others alone.
    """

    def __init__(self, seed: int, indices: np.ndarray, stream: int) -> None:
        start = _mix(np.array([seed & _MASK, stream], np.uint64) + _GOLDEN)
        keys = _mix(indices.astype(np.uint64) * _GOLDEN + start[:1])
        self._keys = _mix(keys + start[1:])
        self._position = 0

    def bits(self, *shape: int) -> np.ndarray:
        """uint64[B, *shape], every bit fair."""
        count = int(np.prod(shape))
        counters = np.arange(self._position + 1, self._position + count + 1, dtype=np.uint64) * _GOLDEN
        self._position += count
        return _mix(self._keys[:, None] + counters).reshape(len(self._keys), *shape)

    def uniform(self, low: float, high: float, *shape: int) -> Floats:
        """float32[B, *shape] in [low, high]."""
        unit = (self.bits(*shape) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        return unit * np.float32(high - low) + np.float32(low)

    def chance(self, probability: float, *shape: int) -> np.ndarray:
        """bool[B, *shape], true with the given probability."""
        return self.uniform(0, 1, *shape) < np.float32(probability)

    def integers(self, count: int, *shape: int) -> np.ndarray:
        """int64[B, *shape] in 0 .. count - 1."""
        return ((self.bits(*shape) >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)

    def normal(self, *shape: int) -> Floats:
        """float32[B, *shape], standard normal in 65536 steps: one 64-bit draw gives four, which keeps noise cheap."""
        count = int(np.prod(shape))
        words = self.bits(-(-count // 4)).view(np.uint16)[:, :count]
        return _normal_quantiles()[words].reshape(len(self._keys), *shape)
