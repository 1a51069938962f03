"""Cameras: the tables a layout is traced with, and rays through its pixels.

Camera rays have a unit component along the optical axis, so the ray parameter is the metric z-depth itself.
"""

from dataclasses import dataclass, replace

import numpy as np

from cynosure.data.scenes.layout import BOX, Layout

FIELD_OF_VIEW = 1.1
"""Radians across the width of the image; pixels are square."""
_F = np.float32


@dataclass(frozen=True)
class View:
    """A layout seen by its cameras, with the per-object tables that the ray loops gather from."""

    layout: Layout
    height: int
    width: int
    camera_table: np.ndarray  # [12, B·K]: unit-frame origin, and ray = x·a + y·b + c
    sun_table: np.ndarray  # [11, B·K]: rotation and scale, offset, direction to the sun, all in the unit frame
    bounds: np.ndarray  # [4, B, K]: left, right, bottom, top on the image plane
    shade_table: np.ndarray  # [6, B, K]: see `_shade_table`

    @property
    def pixel(self) -> float:
        """The side of a pixel on the image plane at unit depth."""
        return 2 * float(np.tan(FIELD_OF_VIEW / 2)) / self.width


@dataclass(frozen=True)
class Rays:
    """M camera rays, sorted by scene."""

    starts: np.ndarray  # int64[B + 1]: the rays of scene b are starts[b] .. starts[b + 1] - 1
    x: np.ndarray  # [M], image plane, right
    y: np.ndarray  # [M], image plane, up
    forward: np.ndarray  # [M], world y of the ray
    up: np.ndarray  # [M], world z of the ray


class Patch:
    """Some of the rays: G indices, sorted, and how many of them each scene has."""

    def __init__(self, rays: Rays, mask: np.ndarray) -> None:
        self.index = np.flatnonzero(mask)
        self.starts = np.searchsorted(self.index, rays.starts)
        self.counts = np.diff(self.starts)

    def of(self, values: np.ndarray) -> np.ndarray:
        """[G] from a value a ray, [M]."""
        return values.take(self.index)

    def spread(self, table: np.ndarray) -> np.ndarray:
        """[..., G] from a value a scene, [..., B]; repeating runs is six times faster than gathering."""
        return np.repeat(table, self.counts, axis=-1)


def _shade_table(layout: Layout) -> np.ndarray:
    """Where each object can cast its shadow, on the ground and along the sun: [6, B, K].

    Rows: position along and across the sun's bearing, shift and half length of the shadow along it, half width, and
    1 / radius² for contact shadows.
    """
    bearing = layout.light[:, :2] / np.sqrt(1 - layout.light[:, 2:] ** 2)
    slope = np.sqrt(1 - layout.light[:, 2] ** 2) / layout.light[:, 2]
    cx, cy = layout.center[..., 0], layout.center[..., 1]
    along = cx * bearing[:, :1] + cy * bearing[:, 1:]
    across = cy * bearing[:, :1] - cx * bearing[:, 1:]
    hx, hy, hz = (layout.half[..., i] for i in range(3))
    radius = np.where(layout.shape == BOX, np.sqrt(hx * hx + hy * hy), hx)
    stretch = hz * slope[:, None]
    return np.stack([along, across, -stretch, radius + stretch, radius, 1 / (hx * hy)]).astype(_F)


def _bounds(layout: Layout) -> np.ndarray:
    """[4, B, K]: the rectangle around each object on the image plane, empty for absent objects."""
    cos_yaw, sin_yaw = np.cos(layout.yaw)[..., None], np.sin(layout.yaw)[..., None]
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], _F).T
    lx, ly, lz = (layout.half[..., i : i + 1] * corners[i] for i in range(3))
    x = layout.center[..., :1] + cos_yaw * lx - sin_yaw * ly
    y = layout.center[..., 1:2] + sin_yaw * lx + cos_yaw * ly
    z = layout.center[..., 2:] + lz - layout.camera_height[:, None, None]
    cos_pitch, sin_pitch = np.cos(layout.pitch)[:, None, None], np.sin(layout.pitch)[:, None, None]
    depth = y * cos_pitch - z * sin_pitch
    right, up = x / depth, (y * sin_pitch + z * cos_pitch) / depth
    edges = np.stack([right.min(-1), -right.max(-1), up.min(-1), -up.max(-1)])
    edges = np.where(layout.present, edges, _F(np.inf))
    return edges * np.array([1, -1, 1, -1], _F)[:, None, None]


def make_view(layout: Layout, height: int, width: int) -> View:
    """The view of `layout` at height x width pixels."""
    cos_yaw, sin_yaw = np.cos(layout.yaw), np.sin(layout.yaw)
    hx, hy, hz = (layout.half[..., i] for i in range(3))
    axx, axy, ayx, ayy, azz = cos_yaw / hx, sin_yaw / hx, -sin_yaw / hy, cos_yaw / hy, 1 / hz

    def turned(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> list[np.ndarray]:
        return [axx * x + axy * y, ayx * x + ayy * y, azz * z]

    cx, cy, cz = (layout.center[..., i] for i in range(3))
    lx, ly, lz = (layout.light[:, i, None] for i in range(3))
    cos_pitch, sin_pitch = np.cos(layout.pitch)[:, None], np.sin(layout.pitch)[:, None]
    zero = np.zeros_like(cx)
    camera = turned(-cx, -cy, layout.camera_height[:, None] - cz)
    camera += [axx, ayx, zero, *turned(zero, sin_pitch, cos_pitch), *turned(zero, cos_pitch, -sin_pitch)]
    sun = [axx, axy, ayx, ayy, azz, *turned(-cx, -cy, -cz), *turned(lx, ly, lz)]
    flat = (-1, layout.present.size)
    return View(
        layout=layout,
        height=height,
        width=width,
        camera_table=np.stack(camera).astype(_F).reshape(flat),
        sun_table=np.stack(sun).astype(_F).reshape(flat),
        bounds=_bounds(layout),
        shade_table=_shade_table(layout),
    )


def without(view: View, gone: np.ndarray) -> View:
    """The view with the objects `gone` (bool[B, K]) taken out of the scene."""
    layout = replace(view.layout, present=view.layout.present & ~gone)
    return replace(view, layout=layout, bounds=_bounds(layout))


def pixel_centers(view: View) -> tuple[np.ndarray, np.ndarray]:
    """(x [W], y [H]) of the pixel centres on the image plane, y upwards."""
    x = (np.arange(view.width, dtype=_F) - _F((view.width - 1) / 2)) * _F(view.pixel)
    y = (_F((view.height - 1) / 2) - np.arange(view.height, dtype=_F)) * _F(view.pixel)
    return x, y


def _rays(view: View, starts: np.ndarray, x: np.ndarray, y: np.ndarray) -> Rays:
    pitch = np.stack([np.cos(view.layout.pitch), np.sin(view.layout.pitch)])
    cos_pitch, sin_pitch = np.repeat(pitch, np.diff(starts), axis=1)
    return Rays(starts, x, y, cos_pitch + y * sin_pitch, y * cos_pitch - sin_pitch)


def center_rays(view: View) -> Rays:
    """One ray through the centre of every pixel, M = B·H·W."""
    x, y = pixel_centers(view)
    batch, area = view.layout.batch, len(x) * len(y)
    starts = np.arange(batch + 1) * area
    return _rays(view, starts, np.tile(x, batch * len(y)), np.tile(np.repeat(y, len(x)), batch))


def sample_rays(view: View, pixels: np.ndarray, offsets: np.ndarray) -> Rays:
    """Rays through `pixels` (sorted int64[E], indices into B·H·W) at each of `offsets` (float32[S, 2], in pixels)."""
    x, y = pixel_centers(view)
    line, column = np.divmod(pixels, view.width)
    shifts = offsets * _F(view.pixel)
    ray_x = (x[column][:, None] + shifts[:, 0]).ravel()
    ray_y = (y[line % view.height][:, None] + shifts[:, 1]).ravel()
    starts = np.searchsorted(line, np.arange(view.layout.batch + 1) * view.height) * len(offsets)
    return _rays(view, starts, ray_x, ray_y)
