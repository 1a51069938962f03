"""Editing a picture: what a mask of pixels selects is drawn anew, the rest stays.

The oracle's codes of the picture are known, those of the selected cells free; the prior writes them, the base decodes
all, and the answer replaces the picture with a soft edge (Chang et al. 2022, MaskGIT, section 4.3).
Shapes: L code length, D depth, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import distance_transform_edt, maximum_filter

from cynosure.core.contracts import Task
from cynosure.core.records import CodeSpec, Prediction
from cynosure.data.augment import luma, resize_image
from cynosure.data.pictures import MAX_PIXELS, load_picture
from cynosure.errors import CynosureError, DataError, unknown
from cynosure.run.codes import copies
from cynosure.run.sampling import SamplingOptions
from cynosure.run.steering import FREE, Box, box_mask, grids, spec_of, touched, touched_cells

if TYPE_CHECKING:
    from cynosure.run.predictor import Predictor

Edge = Literal["fade", "blur"]
ANSWER = "rgb"
"""The value of a prediction that is a picture, uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Selection:
    """What to draw anew: the white of a mask (any picture of the same size), boxes, and new borders.

    `invert`: all but what mask and boxes select. `expand`: how many pixels the picture grows on each side (left, top,
    right, bottom); what is new is drawn in any case. `edge`: over the width of one cell around the selection the answer
    fades into the picture; or, as MaskGIT does, a margin of one cell is drawn anew too, and its outline blurred.
    """

    mask: Any = None
    boxes: Sequence[Box] = ()
    invert: bool = False
    expand: Box = (0, 0, 0, 0)
    edge: Edge = "fade"

    def __bool__(self) -> bool:
        return self.mask is not None or bool(self.boxes) or any(self.expand)

    def on(self, image: np.ndarray, alpha: np.ndarray | None = None) -> Canvas:
        """The selection on a picture uint8 [H, W, 3] and its alpha uint8 [H, W], if it has one.

        Raises CynosureError when it selects nothing or lies outside, DataError for a mask of another size.
        """
        size = (image.shape[0], image.shape[1])
        chosen = np.zeros(size, dtype=bool)
        if self.mask is not None:
            chosen |= read_mask(self.mask, size)
        for box in self.boxes:
            chosen |= box_mask(box, size)
        if self.invert:
            chosen = ~chosen
        if min(self.expand) < 0:
            raise CynosureError(f"a picture expands by 0 pixels or more on each side, not {min(self.expand)}")
        left, top, right, bottom = self.expand
        if (size[0] + top + bottom) * (size[1] + left + right) > MAX_PIXELS:
            raise DataError(f"the expanded picture would have more than {MAX_PIXELS // 1_000_000} million pixels")
        border = ((top, bottom), (left, right))
        chosen = np.pad(chosen, border, constant_values=True)
        if not chosen.any():
            black = "black" if self.invert else "white"
            raise DataError(f"there is nothing to draw anew: give a mask with some {black}, a box, or expand")
        whole = np.pad(image, (*border, (0, 0)), mode="edge")
        return Canvas(whole, chosen, None if alpha is None else np.pad(alpha, border, constant_values=255))


@dataclass(frozen=True)
class Canvas:
    """A picture uint8 [H, W, 3], what of it is drawn anew, bool [H, W], and its alpha uint8 [H, W], if it has one."""

    image: np.ndarray
    chosen: np.ndarray
    alpha: np.ndarray | None = None

    def shaded(self) -> np.ndarray:
        """The picture with what is drawn anew in grey, uint8 [H, W, 3]."""
        return np.where(self.chosen[..., None], np.uint8(128), self.image)


@dataclass(frozen=True)
class Edit:
    """A canvas and the answers, each with the whole picture, at its own resolution, as value 'rgb'."""

    canvas: Canvas
    predictions: list[Prediction]


def read_mask(source: Any, size: tuple[int, int]) -> np.ndarray:
    """The white pixels of a picture (any that `load_picture` reads) of `size` (H, W), bool [H, W].

    From half grey on a pixel is white; transparent ones are black. Raises DataError for a picture of another size.
    """
    picture = load_picture(source, None if isinstance(source, str) or hasattr(source, "__fspath__") else "the mask")
    named = picture.name if picture.name == "the mask" else f"mask {picture.name}"
    if picture.size != size:
        (height, width), (rows, columns) = picture.size, size
        raise DataError(
            f"{named} has {width}x{height} pixels and the picture {columns}x{rows}: make them the same size"
        )
    if picture.image.max() == 1:
        raise DataError(f"{named} holds only 0 and 1, where white is 255: multiply it by 255, or give it as bool")
    opaque = 1.0 if picture.alpha is None else picture.alpha / np.float32(255)
    return luma(picture.image) * opaque >= 127.5


def edit(
    predictor: Predictor,
    picture: Any,
    selection: Selection,
    task: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    samples: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    **sampling: Unpack[SamplingOptions],
) -> Edit:
    """Draw what is selected anew; `inputs` are what the task reads beside a picture, such as a label or a caption.

    The model sees the largest part of the picture that has its own aspect and holds all that is selected, or the whole
    picture, squeezed, where none does. All codes whose cells are selected in part are free, and with a blurred edge
    those beside them; with an edge that fades, no pixel changes farther away than one cell.

    Raises CynosureError for a task or codes that cannot be edited and a selection of nothing, DataError for a picture
    or mask that cannot be used.
    """
    if selection.edge not in EDGES:
        raise CynosureError(unknown("edge", selection.edge, EDGES))
    learnt, spec = predictor.task(task), spec_of(predictor.model)
    grid = _editable(spec)
    loaded = load_picture(picture)
    canvas = selection.on(loaded.image, loaded.alpha)
    part = window(canvas.chosen, learnt.image_size)
    shown = resize_image(canvas.image, learnt.image_size) if part is None else canvas.image[part]
    part = part or (slice(None), slice(None))
    row = _row(learnt, shown, inputs or {})
    chosen = canvas.chosen[part]
    if selection.edge == "blur":
        chosen = with_margin(chosen, grid)
    known = _known(predictor, learnt, row, touched(chosen, spec))
    codes: Any = known if (known != FREE).any() else "prior"
    answers = predictor.predict_iter(
        [row], learnt.name, samples=samples, seed=seed, codes=codes, batch_size=batch_size, **sampling
    )
    share = EDGES[selection.edge](touched_cells(chosen, grid), chosen.shape)[..., None]
    meta = {}
    if canvas.alpha is not None:  # what is drawn can be seen
        meta["alpha"] = canvas.alpha.copy()
        meta["alpha"][part] = np.maximum(canvas.alpha[part], np.rint(255 * share[..., 0]).astype(np.uint8))
    edited = []
    for prediction in next(answers).predictions:
        whole, old = canvas.image.copy(), canvas.image[part]
        new = resize_image(prediction.values[ANSWER], chosen.shape)
        whole[part] = np.rint(share * new + (1 - share) * old).astype(np.uint8)
        edited.append(replace(prediction, values={ANSWER: whole}, meta={**prediction.meta, **meta}))
    return Edit(canvas, edited)


def _editable(spec: CodeSpec) -> tuple[int, int]:
    """Rows and columns of the finest codes; CynosureError where some codes have no place on the picture."""
    if lost := [s.name for s, grid in zip(spec.segments, grids(spec), strict=True) if grid is None]:
        raise CynosureError(
            f"codes '{', '.join(lost)}' of this model lie on no grid of the picture, so that no part of it can be drawn"
            " anew: use a tokenizer whose codes do, such as vqgan"
        )
    assert spec.grid is not None
    return spec.grid


def _row(task: Task, image: np.ndarray, inputs: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in inputs.items() if value is not None}
    if wrong := [name for name in given if name not in task.inputs]:
        raise CynosureError(f"task {task.name} reads no {' and no '.join(wrong)}: leave that out")
    row = {"image": image, **given}
    if missing := [name for name in task.inputs if name not in row]:
        raise CynosureError(f"task {task.name} also needs a {' and a '.join(missing)} to draw from: give one")
    return row


def _known(predictor: Predictor, task: Task, row: Mapping[str, Any], free: np.ndarray) -> np.ndarray:
    """The oracle's codes int64 [L, D] of the picture, -1 where `free` bool [L]."""
    batch = copies(task, row, 1).to(predictor.device)
    if not batch.targets or ANSWER not in task.truth(batch)[0].values:
        raise CynosureError(f"task {task.name} does not answer with a picture such as this one: there is none to edit")
    ids = predictor.model.encode(batch).ids[0].cpu().numpy()
    return np.where(free[:, None], FREE, ids)


def window(chosen: np.ndarray, aspect: tuple[int, int]) -> tuple[slice, slice] | None:
    """The largest part (rows, columns) with the aspect (H, W) that holds all that is chosen, bool [H, W].

    As central around it as the picture allows; None where no such part holds it.
    """
    scale = min(n / wanted for n, wanted in zip(chosen.shape, aspect, strict=True))
    part = []
    for axis, length in enumerate(chosen.shape):
        size = max(1, round(aspect[axis] * scale))
        inside = np.flatnonzero(chosen.any(axis=1 - axis))
        first, last = int(inside[0]), int(inside[-1]) + 1
        if last - first > size:
            return None
        start = min(max((first + last - size) // 2, 0), length - size)
        part.append(slice(start, start + size))
    return part[0], part[1]


def with_margin(chosen: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """What is chosen, bool [H, W], and all that is no farther than one cell of a grid (rows, columns).

    MaskGIT leaves the margin below and on the right out where a box does not end at the edge of a cell.
    """
    return maximum_filter(chosen, [2 * (n // cells) + 1 for n, cells in zip(chosen.shape, grid, strict=True)])


def fading(cells: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """How much of a pixel is new, float32 [H, W]: 1 in `cells` bool [rows, columns], falling to 0 one cell beside."""
    down, across = (np.arange(n) * m // n for n, m in zip(size, cells.shape, strict=True))
    steps = tuple(m / n for n, m in zip(size, cells.shape, strict=True))
    inside = cells[down][:, across]
    distance = distance_transform_edt(~inside, sampling=steps)
    return ((1 + np.cos(np.pi * np.minimum(distance, 1))) / 2).astype(np.float32)


def blurred(cells: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The same as MaskGIT has it: `cells` enlarged and blurred, so that some of the old shows inside of them too."""
    mask = Image.fromarray(np.where(cells, np.uint8(255), np.uint8(0)))
    mask = mask.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    mask = mask.filter(ImageFilter.GaussianBlur(max(0, min(size) // 16 - 1)))
    return np.asarray(mask, dtype=np.float32) / 255


EDGES: Mapping[Edge, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {"fade": fading, "blur": blurred}
