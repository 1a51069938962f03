"""The four primitives in their own unit frame: |x|, |y|, |z| <= 1, standing on z = -1.

An object is its primitive moved, turned about the vertical and scaled, so one closed formula a shape intersects every
ray of every object of that shape at once. Rays start outside and never come from below, so bases need no test.
"""

import numpy as np

from cynosure.data.scenes.layout import BOX, CONE, CYLINDER, SPHERE

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
_F = np.float32
_NEAR = _F(1e-3)
_MISS = _F(np.inf)


def _sphere(origin: Triple, direction: Triple) -> np.ndarray:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    square = b * b - a * (ox * ox + oy * oy + oz * oz - _F(1))
    t = (-b - np.sqrt(square)) / a
    return np.where((square > 0) & (t > _NEAR), t, _MISS)


def _slab(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(enter, leave) of |o + t d| <= 1 along one axis."""
    inverse = _F(1) / d
    middle, reach = -o * inverse, np.abs(inverse)
    return middle - reach, middle + reach


def _box(origin: Triple, direction: Triple) -> np.ndarray:
    (x0, x1), (y0, y1), (z0, z1) = (_slab(o, d) for o, d in zip(origin, direction, strict=True))
    enter = np.maximum(np.maximum(x0, y0), z0)
    leave = np.minimum(np.minimum(x1, y1), z1)
    return np.where((enter < leave) & (enter > _NEAR), enter, _MISS)


def _cylinder(origin: Triple, direction: Triple) -> np.ndarray:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    a = dx * dx + dy * dy
    b = ox * dx + oy * dy
    square = b * b - a * (ox * ox + oy * oy - _F(1))
    middle, reach = -b / a, np.sqrt(square) / a
    z0, z1 = _slab(oz, dz)
    enter = np.maximum(middle - reach, z0)
    hit = (square > 0) & (enter < np.minimum(middle + reach, z1)) & (enter > _NEAR)
    return np.where(hit, enter, _MISS)


def _cone(origin: Triple, direction: Triple) -> np.ndarray:
    """x² + y² = ((1 - z) / 2)², |z| <= 1; the mirror cone above the apex is cut away."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    q, w = (_F(1) - oz) * _F(0.5), dz * _F(-0.5)
    a = dx * dx + dy * dy - w * w
    b = ox * dx + oy * dy - q * w
    square = b * b - a * (ox * ox + oy * oy - q * q)
    root, inverse = np.sqrt(square), _F(1) / a

    def on_cone(t: np.ndarray) -> np.ndarray:
        return np.where((np.abs(oz + t * dz) <= 1) & (t > _NEAR) & (square > 0), t, _MISS)

    return np.minimum(on_cone((-b - root) * inverse), on_cone((-b + root) * inverse))


INTERSECT = {SPHERE: _sphere, BOX: _box, CYLINDER: _cylinder, CONE: _cone}
"""shape -> function(origin, direction) -> float32[M], the ray parameter of the nearest hit, infinite when missed.

Call them with floating point warnings off: misses divide by zero and take roots of negative numbers on purpose.
"""


def unit_normals(shape: np.ndarray, point: Triple) -> tuple[Triple, np.ndarray]:
    """Normals (unit frame, not normalised) at surface points [M] of the given shapes, and the face they lie on.

    The face (int8: 0 curved or an x face, 1 a y face, 2 a top) tells apart surfaces that meet in a crease.
    """
    x, y, z = point
    ax, ay = np.abs(x), np.abs(y)
    box, cylinder = shape == BOX, shape == CYLINDER
    top = (z > _F(0.9995)) & cylinder | (z >= np.maximum(ax, ay)) & box
    y_face = box & ~top & (ay >= ax)
    face = (y_face + 2 * top).astype(np.int8)
    flat = box | top
    nx = np.where(flat, np.where(box & (face == 0), np.sign(x), _F(0)), x)
    ny = np.where(flat, np.where(y_face, np.sign(y), _F(0)), y)
    upright = np.where(shape == CONE, (_F(1) - z) * _F(0.25), np.where(shape == SPHERE, z, _F(0)))
    return (nx, ny, np.where(top, _F(1), upright)), face
