"""Ray casting: which surface each camera ray meets, at what depth, and where the sun does not reach.

Everything is ragged: rays are flat lists of M entries sorted by scene, and only the (ray, object) pairs that can meet
are ever computed, which is some 6 % of all.
"""

from dataclasses import dataclass

import numpy as np

from cynosure.data.scenes.primitives import INTERSECT, Triple, unit_normals
from cynosure.data.scenes.view import Patch, Rays, View, pixel_centers

FAR = 16.0
"""Metres of z-depth beyond which the ground has dissolved into the sky."""
SKY, GROUND = -1, 0
_F = np.float32
_misses_allowed = np.errstate(all="ignore")  # rays that miss divide by zero and take roots of negative numbers


@dataclass(frozen=True)
class Pairs:
    """The (ray, object) pairs that meet."""

    ray: np.ndarray  # int64[P]
    target: np.ndarray  # int64[P], index into B·K
    depth: np.ndarray  # [P]


@dataclass(frozen=True)
class Surface:
    """The surface under each ray; P rays meet things. Points of sky rays are meaningless."""

    depth: np.ndarray  # [M], metres, infinite for sky
    owner: np.ndarray  # int8[M]: SKY, GROUND, or slot + 1
    point: Triple  # [M] each, world, metres
    sky: Patch
    ground: Patch
    things: Patch
    target: np.ndarray  # int64[P], index into B·K
    normal: Triple  # [P] each, world, unit length
    local: Triple  # [P] each, the point in the unit frame of its object
    cosine: np.ndarray  # [P], Lambert's, in [0, 1]
    face: np.ndarray  # int8[M], 0 off the things
    shadow: np.ndarray  # bool[M], the sun is hidden by another object
    contact: np.ndarray  # [M] in [0, 1], how much ambient light near objects take from the ground


def spread(table: np.ndarray, key: np.ndarray) -> np.ndarray:
    """table[..., key] for sorted keys, by repeating runs as in `Patch.spread`."""
    return np.repeat(table, np.bincount(key, minlength=table.shape[-1]), axis=-1)


def _candidates(view: View, chosen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(pixel int64[P] into B·H·W, target int64[P] into B·K): the pixels in or at the rectangle of each object."""
    x, y = pixel_centers(view)
    left, right, bottom, top = view.bounds[..., None]
    margin = _F(view.pixel / 2)
    columns = (x >= left - margin) & (x <= right + margin)
    rows = (y >= bottom - margin) & (y <= top + margin)
    inside = rows[..., :, None] & columns[..., None, :]
    area = view.height * view.width
    inside = inside.reshape(*view.layout.present.shape, area)
    if chosen is not None:
        inside &= chosen.reshape(-1, 1, area)
    target, place = np.divmod(np.flatnonzero(inside), area)
    return target // view.layout.present.shape[1] * area + place, target


@_misses_allowed
def meet(view: View, rays: Rays, chosen: np.ndarray | None = None, samples: int = 1) -> Pairs:
    """All meetings of camera rays with objects. `chosen` (bool[B·H·W]) marks the pixels that rays go through."""
    pixel, target = _candidates(view, chosen)
    if chosen is not None:
        pixel = (np.cumsum(chosen) - 1)[pixel]
    if samples > 1:
        pixel = (pixel[:, None] * samples + np.arange(samples)).ravel()
        target = np.repeat(target, samples)
    kind = view.layout.shape.ravel()[target]
    found = []
    for shape, intersect in INTERSECT.items():
        mine = np.flatnonzero(kind == shape)
        ray, owner = pixel[mine], target[mine]
        ox, oy, oz, ax, ay, _, bx, by, bz, cx, cy, cz = spread(view.camera_table, owner)
        x, y = rays.x[ray], rays.y[ray]
        depth = intersect((ox, oy, oz), (x * ax + y * bx + cx, x * ay + y * by + cy, y * bz + cz))
        hit = np.flatnonzero(np.isfinite(depth))
        found.append((ray[hit], owner[hit], depth[hit]))
    return Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


@_misses_allowed
def nearest(view: View, rays: Rays, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """(depth [M], owner int8[M]): the nearest of ground and present objects on every ray."""
    depth = np.repeat(-view.layout.camera_height, np.diff(rays.starts)) / rays.up
    depth[~((depth > 0) & (depth <= FAR))] = np.inf
    kept = view.layout.present.ravel()[pairs.target]
    owner = np.isfinite(depth).view(np.int8) + np.int8(SKY)
    np.minimum.at(depth, pairs.ray[kept], pairs.depth[kept])
    first = kept & (pairs.depth == depth[pairs.ray])
    owner[pairs.ray[first]] = pairs.target[first] % view.layout.present.shape[1] + 1
    return depth, owner


def _shadow_candidates(
    view: View, lit: Patch, owner: np.ndarray, point: Triple
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(entry int64[Q], target int64[Q], contact float32[G]) for the G sunlit points of `lit`.

    Entries are the points that an object other than their own could shade. Scene by scene, because then no per-object
    value has to be gathered for every point.
    """
    layout, slots = view.layout, view.layout.present.shape[1]
    level = np.sqrt(1 - layout.light[:, 2] ** 2)
    bearing = np.stack([layout.light[:, 0] / level, layout.light[:, 1] / level, level / layout.light[:, 2]])
    bx, by, slope = lit.spread(bearing)
    px, py, pz = point
    along, across, drop = px * bx + py * by, py * bx - px * by, pz * slope
    contact = np.zeros(len(along), _F)
    entries, targets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for scene, (start, stop) in enumerate(zip(lit.starts[:-1], lit.starts[1:], strict=True)):
        present = np.flatnonzero(layout.present[scene])
        if not len(present) or start == stop:
            continue
        own_along, own_across, shift, length, width, sharpness = view.shade_table[:, scene, present, None]
        ahead, aside = along[start:stop] - own_along, across[start:stop] - own_across
        near = ((ahead * ahead + aside * aside) * sharpness).min(axis=0)
        contact[start:stop] = np.maximum(_F(1) - near * _F(0.36), 0)
        ahead -= drop[start:stop]
        ahead -= shift
        shaded = np.abs(ahead, out=ahead) <= length
        shaded &= np.abs(aside, out=aside) <= width
        shaded &= owner[start:stop] != (present + 1).astype(np.int8)[:, None]
        slot, entry = np.divmod(np.flatnonzero(shaded), stop - start)
        entries.append(entry + start)
        targets.append(present[slot] + scene * slots)
    return np.concatenate(entries), np.concatenate(targets), contact


def _to_unit_frame(table: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Triple:
    axx, axy, ayx, ayy, azz, ox, oy, oz = table
    return axx * x + axy * y + ox, ayx * x + ayy * y + oy, azz * z + oz


@_misses_allowed
def _cast_shadows(view: View, surface: Surface, lit: Patch) -> None:
    """Fills in `shadow` and `contact` of `surface`, whose sunlit points are `lit`."""
    owner = lit.of(surface.owner)
    px, py, pz = (lit.of(part) for part in surface.point)
    entry, target, contact = _shadow_candidates(view, lit, owner, (px, py, pz))
    surface.contact[lit.index] = np.where(owner == GROUND, contact, _F(0))
    kind = view.layout.shape.ravel()[target]
    for shape, intersect in INTERSECT.items():
        mine = np.flatnonzero(kind == shape)
        where = entry[mine]
        table = spread(view.sun_table, target[mine])
        origin = _to_unit_frame(table[:8], px[where], py[where], pz[where])
        depth = intersect(origin, tuple(table[8:]))
        surface.shadow[lit.index[where[np.isfinite(depth)]]] = True


@_misses_allowed
def surfaces(view: View, rays: Rays, depth: np.ndarray, owner: np.ndarray) -> Surface:
    """Points, normals, Lambert cosines and shadows of the nearest surfaces."""
    layout = view.layout
    camera_height = np.repeat(layout.camera_height, np.diff(rays.starts))
    point = (depth * rays.x, depth * rays.forward, depth * rays.up + camera_height)
    things = Patch(rays, owner > GROUND)
    target = things.spread(np.arange(layout.batch) * layout.present.shape[1] - 1) + things.of(owner)
    table = view.sun_table[:8].take(target, axis=1)
    local = _to_unit_frame(table, *(things.of(part) for part in point))
    face = np.zeros(len(depth), np.int8)
    (nx, ny, nz), face[things.index] = unit_normals(layout.shape.ravel()[target], local)
    # Normals turn by the inverse transpose, which is the transpose of the matrix in the table.
    axx, axy, ayx, ayy, azz = table[:5]
    wx, wy, wz = axx * nx + ayx * ny, axy * nx + ayy * ny, azz * nz
    inverse = 1 / np.sqrt(wx * wx + wy * wy + wz * wz)
    normal = (wx * inverse, wy * inverse, wz * inverse)
    lx, ly, lz = things.spread(layout.light.T)
    cosine = np.maximum(normal[0] * lx + normal[1] * ly + normal[2] * lz, 0)

    surface = Surface(
        depth=depth,
        owner=owner,
        point=point,
        sky=Patch(rays, owner == SKY),
        ground=Patch(rays, owner == GROUND),
        things=things,
        target=target,
        normal=normal,
        local=local,
        cosine=cosine,
        face=face,
        shadow=np.zeros(len(depth), bool),
        contact=np.zeros(len(depth), _F),
    )
    sunlit = owner == GROUND
    sunlit[things.index] = cosine > 0
    _cast_shadows(view, surface, Patch(rays, sunlit))
    return surface
