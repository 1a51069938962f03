"""Procedural scenes: pictures with exact panoptic maps, depth, captions and low-light copies, made of nothing.

Ray-cast primitives stand on a textured ground under a sky. A scene is a pure function of (seed, index), so a dataset
is two numbers and a range. Importing this package needs numpy alone.

    layout      what stands where, drawn from (seed, index)
    view        cameras and rays
    primitives  the four shapes, intersected in their unit frame
    trace       nearest surfaces, shadows
    shading     colours
    captions    sentences and lists of objects
    render      all of it: `render_scenes`
    build       the dataset on disk: `build_scenes`, read through `SceneRows`
"""

from typing import TYPE_CHECKING, Any

from cynosure.data.scenes.render import CLASSES, render_scenes
from cynosure.data.scenes.rows import SceneRows, decode_row

if TYPE_CHECKING:
    from cynosure.data.scenes.build import build_scenes

__all__ = ["CLASSES", "SceneRows", "build_scenes", "decode_row", "render_scenes"]


def __getattr__(name: str) -> Any:
    if name == "build_scenes":  # pyarrow costs a quarter of a second
        from cynosure.data.scenes.build import build_scenes

        return build_scenes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
