"""Grids of pictures: what a model answers, side by side. Drawn with Pillow alone. Shapes: H W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont

from cynosure.core.guided import CODE_SOURCES, CodeSource
from cynosure.core.records import Batch, Prediction, SampleSettings
from cynosure.data.augment import to_pixels
from cynosure.data.loading import evaluation_batches
from cynosure.errors import DataError
from cynosure.run.evaluate import available
from cynosure.run.predictor import PICTURES, SEVERAL_TEMPERATURE, row_picture
from cynosure.run.seeds import row_seeds

if TYPE_CHECKING:
    from cynosure.run.predictor import Predictor

CELL = 192
"""Width and height, in pixels, that a picture is fitted into."""
GAP, MARGIN, CORNER = 8, 20, 6
PAPER, INK, SOFT = (255, 255, 255), (28, 32, 40), (112, 119, 131)
TITLE, SMALL = 16, 13
EDGE = 40
"""How dark, of 255, the hairline around a picture is; it keeps bright skies from melting into the paper."""


def grid(
    rows: Sequence[Sequence[np.ndarray | None]],
    headers: Sequence[str],
    row_labels: Sequence[str] | None = None,
    cell: int = CELL,
) -> Image.Image:
    """Pictures uint8 [H, W, 3] in rows under `headers`; a second line of a header is set small. None leaves a hole.

    Small pictures grow by a whole factor, pixel by pixel, so that they stay crisp; big ones shrink smoothly. All keep
    their aspect; a row is as high as its highest picture. Raises ValueError when a row has another number of pictures
    than there are headers.
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"a row of the grid holds {len(row)} pictures, but there are {len(headers)} headers")
    pictures = [[None if p is None else fit(p, cell) for p in row] for row in rows]
    widths = [_column_width(header, [row[i] for row in pictures]) for i, header in enumerate(headers)]
    heights = [max((p.height for p in row if p is not None), default=cell) for row in pictures]
    label_width = max((int(font(SMALL).getlength(label)) for label in row_labels or ()), default=-GAP) + GAP
    header_height = max((_text_height(h) for h in headers), default=0) + GAP
    width = 2 * MARGIN + label_width + sum(widths) + GAP * max(len(widths) - 1, 0)
    height = 2 * MARGIN + header_height + sum(heights) + GAP * max(len(heights) - 1, 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [MARGIN + label_width + sum(widths[:i]) + GAP * i for i in range(len(widths))]
    for header, left, column in zip(headers, lefts, widths, strict=True):
        _header(draw, header, left + column // 2, MARGIN + header_height - GAP)
    top = MARGIN + header_height
    for index, (fitted, row_height) in enumerate(zip(pictures, heights, strict=True)):
        if row_labels:
            middle = top + row_height // 2
            draw.text((MARGIN + label_width - GAP, middle), row_labels[index], SOFT, font(SMALL), anchor="rm")
        for picture, left, column in zip(fitted, lefts, widths, strict=True):
            if picture is not None:
                at = (left + (column - picture.width) // 2, top + (row_height - picture.height) // 2)
                sheet.paste(picture, at, _rounded(picture.size))
                sheet.paste(INK, at, _hairline(picture.size))
        top += row_height + GAP
    return sheet


def fit(picture: np.ndarray, cell: int) -> Image.Image:
    """uint8 [H, W, 3] at most `cell` pixels a side; small pictures grow by a whole factor only."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    longest = max(image.size)
    if longest <= cell:
        factor = cell // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * cell / longest)), max(1, round(image.height * cell / longest)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _column_width(header: str, pictures: Sequence[Image.Image | None]) -> int:
    lines = header.split("\n")
    words = [int(font(TITLE if i == 0 else SMALL).getlength(line)) + GAP for i, line in enumerate(lines)]
    return max([p.width for p in pictures if p is not None] + words)


def _text_height(header: str) -> int:
    return TITLE + 4 + (SMALL + 4) * header.count("\n")


def _header(draw: ImageDraw.ImageDraw, header: str, centre: int, bottom: int) -> None:
    top = bottom - _text_height(header)
    for i, line in enumerate(header.split("\n")):
        size, colour = (TITLE, INK) if i == 0 else (SMALL, SOFT)
        draw.text((centre, top), line, colour, font(size), anchor="ma")
        top += size + 4


@lru_cache(maxsize=8)
def font(size: int) -> Any:
    """Pillow's own font, so that pictures look the same everywhere."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=64)
def _rounded(size: tuple[int, int], inset: int = 0) -> Image.Image:
    """A mask with round corners, `inset` pixels smaller on every side; drawn four times as large for smooth edges."""
    mask = Image.new("L", (size[0] * 4, size[1] * 4), 0)
    box = (4 * inset, 4 * inset, 4 * (size[0] - inset) - 1, 4 * (size[1] - inset) - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, 4 * (CORNER - inset), 255)
    return mask.resize(size, Image.Resampling.LANCZOS)


@lru_cache(maxsize=64)
def _hairline(size: tuple[int, int]) -> Image.Image:
    return ImageChops.subtract(_rounded(size), _rounded(size, 1)).point(lambda level: level * EDGE // 255)


@dataclass
class _Columns:
    """Headers and pictures, gathered column by column."""

    headers: list[str] = field(default_factory=list)
    columns: list[list[np.ndarray]] = field(default_factory=list)

    def add(self, header: str, pictures: Sequence[np.ndarray]) -> None:
        self.headers.append(header)
        self.columns.append(list(pictures))

    def draw(self, cell: int) -> Image.Image:
        return grid([list(row) for row in zip(*self.columns, strict=True)], self.headers, cell=cell)


HEADERS: dict[CodeSource, str] = {
    "oracle": "oracle codes\nthe ceiling",
    "prior": "prior codes\nthe prediction",
    "random": "random codes\nnothing known",
    "none": "no codes\nthe base alone",
}


@torch.no_grad()
def evaluation_grid(
    predictor: Predictor,
    task: str,
    rows: Any,
    count: int = 6,
    settings: SampleSettings | None = None,
    samples: int = 2,
    seed: int = 0,
    cell: int = CELL,
) -> Image.Image:
    """The first `count` rows: input, answers with codes from the oracle, the prior and none, truth.

    A task of many right answers also shows `samples` answers that the prior draws at temperature 0.8.
    Raises DataError when there is no row.
    """
    settings = settings or SampleSettings(temperature=0.0)
    model, learnt, device = predictor.model, predictor.tasks[task], predictor.device
    transforms = predictor.host.transforms(learnt, "test")
    batch = next(evaluation_batches(learnt, rows, count, limit=count, transforms=transforms), None)
    if batch is None:
        raise DataError(f"task {task}: there is no row to draw")
    real, batch = int(batch.valid.sum()), batch.to(device)
    columns = _Columns()

    def add(header: str, predictions: Sequence[Prediction]) -> None:
        columns.add(header, [picture_of(predictor, p) for p in predictions[:real]])

    inputs = inputs_of(batch)
    if inputs is not None:
        columns.add("input\nwhat the model sees", inputs[:real])
    sources = [s for s in available(model, CODE_SOURCES) if s != "random"]
    for source in sources:
        header = HEADERS[source] if len(sources) > 1 else "prediction\nthe model's answer"
        add(header, model.predict(batch, settings, row_seeds(seed, batch.keys), source))
        if source == "prior" and learnt.one_to_many:
            drawn = SampleSettings(temperature=SEVERAL_TEMPERATURE)
            for i in range(1, samples + 1):
                seeds = row_seeds(seed, batch.keys, i)
                header = f"another\nsampled, T = {SEVERAL_TEMPERATURE}"
                add(header, model.predict(batch, drawn, seeds, "prior"))
    add("truth\nthe true answer", learnt.truth(batch))
    return columns.draw(cell)


def inputs_of(batch: Batch) -> list[np.ndarray] | None:
    """What the model sees, uint8 [H, W, 3] each."""
    name = next((n for n in PICTURES if n in batch.inputs), None)
    return None if name is None else [to_pixels(image) for image in batch.inputs[name].float().cpu().numpy()]


def photograph_grid(
    predictor: Predictor,
    photos: Sequence[tuple[str, Any]],
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    cell: int = 288,
) -> Image.Image:
    """Named pictures (whatever `Predictor.predict` takes) and every task's answer at the picture's own size.

    A task of many right answers shows a second one, drawn at temperature 0.8.
    """
    sources = [source for _, source in photos]
    columns = _Columns()
    for name in tasks or list(predictor.tasks):
        task = predictor.task(name)
        answers = list(islice(predictor.predict_iter(sources, name, seed=seed), len(sources)))
        if error := next((a.error for a in answers if a.error), None):
            raise error
        if not columns.headers:
            pictures = [row_picture(task, a.row) for a in answers]
            columns.add("input", [p for p in pictures if p is not None])
        columns.add(name, [picture_of(predictor, a.predictions[0]) for a in answers])
        if task.one_to_many:
            again = predictor.predict(sources, name, seed=seed + 1, temperature=SEVERAL_TEMPERATURE)
            columns.add(f"{name}, again", [picture_of(predictor, p) for p in again])
    return columns.draw(cell)


def picture_of(predictor: Predictor, prediction: Prediction) -> np.ndarray:
    """An answer as a picture uint8 [H, W, 3]: a plugin's cynosure_render, else the task's own drawing."""
    picture = predictor.host.render(prediction)
    return prediction.image() if picture is None else picture
