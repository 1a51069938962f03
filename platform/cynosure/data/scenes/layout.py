"""What stands where: the parameters of a batch of scenes, drawn before anything is rendered.

World axes in metres: x right, y away from the camera, z up; the ground is z = 0 and the camera stands at x = y = 0.
Legend: B scenes, K = 5 object slots of which `present` marks those in use.
"""

from dataclasses import dataclass

import numpy as np

from cynosure.data.scenes.draws import Draws

SHAPES = ("sphere", "box", "cylinder", "cone")
SPHERE, BOX, CYLINDER, CONE = range(4)
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.13, 0.13),
    "orange": (0.97, 0.50, 0.08),
    "blue": (0.14, 0.30, 0.86),
    "cyan": (0.16, 0.76, 0.80),
    "green": (0.15, 0.62, 0.22),
    "yellow": (0.95, 0.82, 0.14),
    "purple": (0.52, 0.20, 0.70),
    "white": (0.93, 0.93, 0.91),
    "pink": (0.97, 0.53, 0.72),
    "brown": (0.43, 0.26, 0.13),
}
# Each shape has two usual colours: that is what makes colours predictable from a grey picture.
USUAL_COLORS = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
MATERIALS = ("matte", "shiny", "striped")
MATTE, SHINY, STRIPED = range(3)
GROUNDS = ("checkered", "striped", "mottled")
CHECKERED, LINED, MOTTLED = range(3)
GROUND_TINTS = np.array(
    [[1.02, 1.0, 0.98], [1.12, 1.0, 0.84], [0.92, 1.05, 0.88], [1.16, 0.96, 0.84], [0.92, 1.0, 1.10]], np.float32
)
SKIES = ("blue", "hazy", "sunset", "dusk")
SKY_HORIZON = np.array([[0.82, 0.91, 0.98], [0.93, 0.94, 0.95], [1.0, 0.82, 0.62], [0.68, 0.66, 0.80]], np.float32)
SKY_ZENITH = np.array([[0.36, 0.60, 0.93], [0.68, 0.77, 0.88], [0.72, 0.58, 0.70], [0.25, 0.30, 0.54]], np.float32)
SUNLIGHT = np.array([[1.03, 1.0, 0.94], [1.0, 1.0, 0.99], [1.10, 0.97, 0.80], [0.90, 0.93, 1.06]], np.float32)

SLOTS = 5
_CANDIDATES = 12
_LAYOUT_STREAM = 1


@dataclass(frozen=True)
class Layout:
    """The parameters of B scenes; every array is float32 unless said otherwise."""

    present: np.ndarray  # bool[B, K]
    shape: np.ndarray  # int64[B, K], index into SHAPES
    color: np.ndarray  # int64[B, K], index into COLORS
    material: np.ndarray  # int64[B, K], index into MATERIALS
    large: np.ndarray  # bool[B, K]
    half: np.ndarray  # [B, K, 3], half extents in metres
    center: np.ndarray  # [B, K, 3], in metres
    yaw: np.ndarray  # [B, K], radians
    rgb: np.ndarray  # [B, K, 3], albedo in [0, 1]
    camera_height: np.ndarray  # [B], metres
    pitch: np.ndarray  # [B], radians downwards
    light: np.ndarray  # [B, 3], unit vector towards the sun, which never stands before the camera
    ground_kind: np.ndarray  # int64[B], index into GROUNDS
    ground_rgb: np.ndarray  # [B, 2, 3], the two colours of the texture
    ground_scale: np.ndarray  # [B], half periods per metre
    ground_yaw: np.ndarray  # [B], radians
    phase: np.ndarray  # [B, 6], radians, moves the soft patterns of ground and clouds
    sky_kind: np.ndarray  # int64[B], index into SKIES
    horizon: np.ndarray  # [B, 3]
    zenith: np.ndarray  # [B, 3]
    sunlight: np.ndarray  # [B, 3]

    @property
    def batch(self) -> int:
        return len(self.present)


def _place(draws: Draws, radius: np.ndarray) -> np.ndarray:
    """float32[B, K, 2]: ground positions, slot after slot at the best of 12 candidates.

    A candidate is good when it leaves a gap to the earlier objects and is seen beside them, not behind them.
    """
    batch, slots = radius.shape
    shape = (slots, _CANDIDATES)
    away = draws.uniform(2.6, 6.6, *shape)
    right = draws.uniform(-0.42, 0.42, *shape) * (away + np.float32(0.3))
    lottery = draws.uniform(1, 2, *shape)
    scenes = np.arange(batch)
    placed = np.empty((batch, slots, 2), np.float32)
    for slot in range(slots):
        x, y = right[:, slot], away[:, slot]
        if slot:
            room = np.full((batch, _CANDIDATES), np.inf, np.float32)
            for earlier in range(slot):
                ex, ey = placed[:, earlier, :1], placed[:, earlier, 1:]
                gap = np.sqrt((x - ex) ** 2 + (y - ey) ** 2) - (radius[:, slot] + radius[:, earlier])[:, None]
                room = np.minimum(room, np.minimum(gap, np.float32(1.5) * np.abs(x / y - ex / ey)))
            best = np.where(room > np.float32(0.25), lottery[:, slot], room).argmax(axis=1)
        else:
            best = np.zeros(batch, np.int64)
        placed[:, slot, 0] = x[scenes, best]
        placed[:, slot, 1] = y[scenes, best]
    return placed


def _half_extents(draws: Draws, shape: np.ndarray, large: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(footprint radius [B, K], half extents [B, K, 3]) in metres; heights stay within a quarter of the width."""
    radius = np.where(large, draws.uniform(0.50, 0.68, SLOTS), draws.uniform(0.28, 0.40, SLOTS))
    tall = radius * draws.uniform(0.8, 1.25, SLOTS)
    box = shape == BOX
    width = np.where(box, radius * np.float32(0.85), radius)
    length = np.where(box, width * draws.uniform(0.75, 1.2, SLOTS), radius)
    height = np.where(shape == SPHERE, radius, np.where(box, tall * np.float32(0.8), tall))
    return radius, np.stack([width, length, height], axis=-1)


def _sun(draws: Draws) -> np.ndarray:
    """float32[B, 3]: towards the sun, 34 to 63 degrees high, to a side of the camera or behind it."""
    azimuth = draws.uniform(0.15, np.pi - 0.15)
    side = np.where(draws.chance(0.5), np.float32(1), np.float32(-1))
    elevation = draws.uniform(0.6, 1.1)
    level = np.cos(elevation)
    return np.stack([level * np.cos(azimuth) * side, -level * np.sin(azimuth), np.sin(elevation)], axis=-1)


def sample_layout(seed: int, indices: np.ndarray) -> Layout:
    """The layouts of scenes `indices` (int[B], not negative) under `seed`; row i depends on (seed, indices[i]) only."""
    draws = Draws(seed, indices, _LAYOUT_STREAM)
    count = 2 + draws.integers(SLOTS - 1)
    shape = draws.integers(len(SHAPES), SLOTS)
    # Scenes with several objects of a class are common, so that telling instances apart matters.
    repeat = draws.chance(0.35, SLOTS)
    shape = np.where(repeat, shape[:, :1], shape)
    usual = USUAL_COLORS[shape, draws.integers(2, SLOTS)]
    color = np.where(draws.chance(0.7, SLOTS), usual, draws.integers(len(COLORS), SLOTS))
    material = np.where(draws.chance(0.35, SLOTS), SHINY, MATTE)
    material = np.where(draws.chance(0.25, SLOTS), STRIPED, material)
    large = draws.chance(0.5, SLOTS)
    radius, half = _half_extents(draws, shape, large)
    position = _place(draws, radius)
    palette = np.array(list(COLORS.values()), np.float32)
    rgb = palette[color] * draws.uniform(0.88, 1.08, SLOTS, 1) + draws.normal(SLOTS, 3) * np.float32(0.025)

    ground = draws.uniform(0.27, 0.70, 1) * GROUND_TINTS[draws.integers(len(GROUND_TINTS))]
    ground = np.clip(ground + draws.normal(3) * np.float32(0.05), 0.1, 0.85).astype(np.float32)
    second = ground * draws.uniform(0.55, 0.85, 1) + draws.normal(3) * np.float32(0.02)
    sky_kind = draws.integers(len(SKIES))
    return Layout(
        present=np.arange(SLOTS) < count[:, None],
        shape=shape,
        color=color,
        material=material,
        large=large,
        half=half,
        center=np.concatenate([position, half[..., 2:]], axis=-1),
        yaw=draws.uniform(0, np.pi, SLOTS),
        rgb=np.clip(rgb, 0.02, 1).astype(np.float32),
        camera_height=draws.uniform(1.0, 2.4),
        pitch=draws.uniform(0.15, 0.40),
        light=_sun(draws),
        ground_kind=draws.integers(len(GROUNDS)),
        ground_rgb=np.stack([ground, np.clip(second, 0.05, 0.9).astype(np.float32)], axis=1),
        ground_scale=draws.uniform(0.7, 1.5),
        ground_yaw=draws.uniform(0, np.pi),
        phase=draws.uniform(0, 2 * np.pi, 6),
        sky_kind=sky_kind,
        horizon=np.clip(SKY_HORIZON[sky_kind] + draws.normal(3) * np.float32(0.025), 0, 1).astype(np.float32),
        zenith=np.clip(SKY_ZENITH[sky_kind] + draws.normal(3) * np.float32(0.035), 0, 1).astype(np.float32),
        sunlight=SUNLIGHT[sky_kind],
    )
