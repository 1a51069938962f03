"""From surfaces to colours: texture, Lambert and ambient light, highlights, haze, sky and clouds.

Patterns are filtered by the size of a pixel on the surface instead of being sampled, so checkers fade into the
distance without moiré.
"""

import numpy as np

from cynosure.data.scenes.layout import CHECKERED, MOTTLED, SHINY, SKIES, STRIPED
from cynosure.data.scenes.trace import Surface
from cynosure.data.scenes.view import Patch, Rays, View

AMBIENT, SUN = 0.40, 0.76
_F = np.float32
_CLOUDINESS = np.array([{"blue": 0.75, "hazy": 0.35, "sunset": 0.55, "dusk": 0.25}[sky] for sky in SKIES], _F)


def _square_wave(phase: np.ndarray, width: np.ndarray) -> np.ndarray:
    """A ±1 wave that changes sign at every integer of `phase`, averaged over a pixel `width` phases wide."""
    wave = np.clip(np.sin(phase * _F(np.pi)) / (width * _F(np.pi / 2)), -1, 1)
    return wave * np.clip(_F(1.6) - width, 0, 1)


def _ground_pattern(view: View, surface: Surface, on: Patch) -> np.ndarray:
    """float32[G] in [0, 1]: the share of the first ground colour at the ground points `on`."""
    layout = view.layout
    x, y, depth = on.of(surface.point[0]), on.of(surface.point[1]), on.of(surface.depth)
    kind = on.spread(layout.ground_kind.astype(np.int8))
    turn = np.stack([np.cos(layout.ground_yaw), np.sin(layout.ground_yaw)]) * layout.ground_scale
    cos, sin = on.spread(turn)
    first, second = cos * x + sin * y, cos * y - sin * x

    # A pixel at depth t spans t·pixel metres sideways and, seen at grazing angle, t²·pixel / height metres away.
    aside = depth * _F(view.pixel)
    away = aside * depth * on.spread(1 / layout.camera_height)
    cos, sin = np.abs(cos), np.abs(sin)
    pattern = _square_wave(first, cos * aside + sin * away)
    checkered = np.flatnonzero(kind == CHECKERED)
    pattern[checkered] *= _square_wave(second[checkered], (sin * aside + cos * away)[checkered])

    mottled = np.flatnonzero(kind == MOTTLED)
    a, b = first[mottled], second[mottled]
    p0, p1, p2 = on.spread(layout.phase.T[:3])[:, mottled]
    bumps = np.sin(a * _F(2.3) + p0) + np.sin(b * _F(2.9) + p1) + np.sin(a * _F(5.1) + b * _F(4.2) + p2) * _F(0.6)
    pattern[mottled] = np.clip(bumps * _F(0.8), -1, 1)
    return pattern * np.exp(np.maximum(depth - 3, 0) * _F(-0.22)) * _F(0.5) + _F(0.5)


def _highlight(view: View, rays: Rays, surface: Surface, on: Patch) -> np.ndarray:
    """float32[P]: Blinn's highlight, (n·h)^32, on the things."""
    x, y, z = on.of(rays.x), on.of(rays.forward), on.of(rays.up)
    inverse = 1 / np.sqrt(x * x + y * y + z * z)
    lx, ly, lz = on.spread(view.layout.light.T)
    hx, hy, hz = lx - x * inverse, ly - y * inverse, lz - z * inverse
    nx, ny, nz = surface.normal
    power = np.maximum((nx * hx + ny * hy + nz * hz) / np.sqrt(hx * hx + hy * hy + hz * hz), 0)
    for _ in range(5):
        power = power * power
    return power


def _ambient(view: View) -> np.ndarray:
    """float32[3, B]: skylight, faintly tinted by the zenith."""
    zenith = view.layout.zenith.T
    mean = (zenith[0] + zenith[1] + zenith[2]) / 3
    return (_F(0.72) + _F(0.28) * zenith / mean) * _F(AMBIENT)


def _things(view: View, rays: Rays, surface: Surface) -> np.ndarray:
    """float32[3, P]: lit colours of the things."""
    layout, on, target = view.layout, surface.things, surface.target
    material = layout.material.ravel()[target]
    albedo = layout.rgb.reshape(-1, 3).T.take(target, axis=1)
    bands = surface.local[2] * _F(2.9) + surface.local[0] * _F(0.6)
    width = on.of(surface.depth) * _F(2.9 * view.pixel) / layout.half[..., 2].ravel()[target]
    albedo *= 1 - (material == STRIPED) * (_F(0.23) - _F(0.23) * _square_wave(bands, width))

    # Skylight comes from above, and less of it reaches the foot of an object.
    foot = np.exp(on.of(surface.point[2]) * _F(-7))
    sky = _F(0.86) + _F(0.14) * surface.normal[2] - _F(0.3) * foot
    sunlit = ~on.of(surface.shadow)
    sun = surface.cosine * sunlit * _F(SUN)
    shine = np.where(material == SHINY, _F(0.75), _F(0.06)) * sunlit * _highlight(view, rays, surface, on)
    return albedo * (on.spread(_ambient(view)) * sky + on.spread(layout.sunlight.T) * sun) + shine


def _ground(view: View, surface: Surface) -> np.ndarray:
    """float32[3, G]: lit colours of the ground."""
    layout, on = view.layout, surface.ground
    share = _ground_pattern(view, surface, on)
    first, second = layout.ground_rgb[:, 0].T, layout.ground_rgb[:, 1].T
    ambient = on.spread(_ambient(view)) * (1 - _F(0.5) * on.of(surface.contact))
    sun = on.spread(layout.sunlight.T * (layout.light[:, 2] * _F(SUN))) * ~on.of(surface.shadow)
    return (on.spread(first - second) * share + on.spread(second)) * (ambient + sun)


def _sky(view: View, rays: Rays, surface: Surface) -> np.ndarray:
    """float32[3, S]: a gradient from horizon to zenith with soft clouds."""
    layout, on = view.layout, surface.sky
    x, y, z = on.of(rays.x), on.of(rays.forward), on.of(rays.up)
    sine = z / np.sqrt(x * x + y * y + z * z)
    height = np.clip(sine * _F(2.2), 0, 1)
    p0, p1, p2 = on.spread(layout.phase.T[3:])
    # Clouds drift on a plane overhead: nearer the horizon they are flatter and closer together.
    plane = 1 / (np.maximum(sine, 0) + _F(0.16))
    u, v = x * plane * _F(1.6), plane * _F(1.9)
    puffs = np.sin(u + p0 + np.sin(v + p1)) + np.sin(v * _F(1.3) + p2 + np.sin(u * _F(1.7) + p0))
    cover = np.clip(puffs * _F(0.55), 0, 1)
    cover = cover * cover * (3 - 2 * cover) * height * on.spread(_CLOUDINESS[layout.sky_kind])
    rise = height * (2 - height) * (1 - cover)
    horizon, zenith, cloud = layout.horizon.T, layout.zenith.T, layout.sunlight.T * _F(0.96)
    color = on.spread(zenith - horizon) * rise + on.spread(cloud - horizon) * cover
    color += on.spread(horizon)
    return color


def _haze(view: View, surface: Surface, on: Patch, color: np.ndarray) -> np.ndarray:
    """The colour seen through the air: things and ground fade into the horizon."""
    distance = np.maximum(on.of(surface.depth) - _F(3.5), 0) * _F(0.09)
    clear = np.exp(-distance * (distance + _F(0.3)))
    return color * clear + on.spread(view.layout.horizon.T) * (1 - clear)


def shade(view: View, rays: Rays, surface: Surface) -> np.ndarray:
    """float32[3, M] in [0, 1]: the colour that each ray brings back."""
    parts = (
        (surface.sky, _sky(view, rays, surface)),
        (surface.ground, _haze(view, surface, surface.ground, _ground(view, surface))),
        (surface.things, _haze(view, surface, surface.things, _things(view, rays, surface))),
    )
    rgb = np.empty((3, len(surface.depth)), _F)
    for on, color in parts:
        np.clip(color, 0, 1, out=color)
        # Channel by channel: indexing two axes at once is four times slower.
        for channel, value in zip(rgb, color, strict=True):
            channel[on.index] = value
    return rgb
