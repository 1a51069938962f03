"""Options of `cynosure predict` that draw a part of a picture anew."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cynosure.errors import CynosureError, DataError

if TYPE_CHECKING:
    from cynosure.run.editing import Selection
    from cynosure.run.predictor import Answer, Predictor


class Edges(StrEnum):
    fade = "fade"
    blur = "blur"


Mask = Annotated[
    Path | None, typer.Option("--mask", help="draw anew where this picture, of the same size, is white; keep the rest")
]
Boxes = Annotated[
    list[str] | None,
    typer.Option("--box", metavar="X0,Y0:X1,Y1", help="draw this box of pixels anew; may be repeated"),
]
Expand = Annotated[
    str | None, typer.Option("--expand", metavar="L,T,R,B", help="pixels to grow by on each side; what is new is drawn")
]
Invert = Annotated[bool, typer.Option("--invert", help="keep what mask and boxes select, draw the rest anew")]
EdgeOption = Annotated[
    Edges,
    typer.Option("--edge", help="fade: into the picture, one code wide; blur: one code more is new, as MaskGIT has it"),
]
Label = Annotated[str | None, typer.Option("--label", "-l", help="name or number of the class to draw there")]
Caption = Annotated[str | None, typer.Option("--caption", help="what to draw there, in words")]


def selection(
    mask: Path | None, boxes: Sequence[str] | None, expand: str | None, invert: bool, edge: Edges
) -> Selection:
    """What a command asks to be drawn anew. Raises CynosureError for boxes and borders that are none."""
    from cynosure.run.editing import Selection
    from cynosure.run.steering import parse_box

    parsed = []
    for text in boxes or ():
        if (box := parse_box(text)) is None:
            raise CynosureError(f"'{text}' is no box: write x0,y0:x1,y1 in pixels of the picture")
        parsed.append(box)
    if expand is not None and not re.fullmatch(r"\d+(,\d+){3}", expand):
        raise CynosureError(f"'{expand}' are no borders: write left,top,right,bottom in pixels, such as 0,0,64,0")
    left, top, right, bottom = map(int, (expand or "0,0,0,0").split(","))
    chosen = Selection(mask, parsed, invert, (left, top, right, bottom), edge.value)
    if expand is not None and not any(chosen.expand):
        raise CynosureError("--expand 0,0,0,0 adds nothing: give the pixels to grow by")
    if edge is not Edges.fade and not chosen:
        raise CynosureError(f"--edge {edge.value} is for what is drawn anew: say where, by --mask, --box or --expand")
    if invert and mask is None and not parsed:
        raise CynosureError("--invert needs a --mask or a --box to keep")
    return chosen


def edits(
    predictor: Predictor, sources: Sequence[str], chosen: Selection, task: str, inputs: dict[str, Any], **options: Any
) -> Iterator[Answer]:
    """The answers of `predict_iter` for pictures of which a part is drawn anew; `row` shows it in grey."""
    from cynosure.run.editing import edit
    from cynosure.run.predictor import Answer

    for index, source in enumerate(sources):
        try:
            found = edit(predictor, source, chosen, task, inputs, **options)
            yield Answer(source, index, {"image": found.canvas.shaded()}, found.predictions)
        except DataError as error:
            yield Answer(source, index, error=error)
