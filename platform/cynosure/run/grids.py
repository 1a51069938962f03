"""Grids of pictures: what a model answers, side by side. Drawn with Pillow alone. Shapes: H W pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
from cynosure.run.predictor import PICTURES, row_picture
from cynosure.run.sampling import SEVERAL_TEMPERATURE
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
    label_width = max((_text_width(label) for label in row_labels or ()), default=-GAP) + GAP
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
                _hang(sheet, picture, left + (column - picture.width) // 2, top + (row_height - picture.height) // 2)
        top += row_height + GAP
    return sheet


def contact_sheet(groups: Sequence[tuple[str, Sequence[np.ndarray]]], cell: int = CELL, across: int = 8) -> Image.Image:
    """Pictures uint8 [H, W, 3], those of a group in even lines of at most `across` with its words, wrapped, below them.

    Groups that are small enough share a line. Pictures are fitted as in `grid`.
    """
    most = max(len(pictures) for _, pictures in groups)
    columns = math.ceil(most / math.ceil(most / across))
    blocks = [_block(words, [fit(p, cell) for p in pictures], columns) for words, pictures in groups]
    width = max(block.width for block in blocks)
    beside = max(1, min(len(blocks), across // columns))
    lines = [blocks[i : i + beside] for i in range(0, len(blocks), beside)]
    heights = [max(block.height for block in line) for line in lines]
    gap = 2 * GAP
    size = (2 * MARGIN + beside * (width + gap) - gap, 2 * MARGIN + sum(heights) + gap * (len(lines) - 1))
    sheet, top = Image.new("RGB", size, PAPER), MARGIN
    for line, height in zip(lines, heights, strict=True):
        for place, block in enumerate(line):
            sheet.paste(block, (MARGIN + place * (width + gap), top))
        top += height + gap
    return sheet


def _block(words: str, pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in lines of `columns`, and words below them."""
    width, height = (max(sizes) + GAP for sizes in zip(*(p.size for p in pictures), strict=True))
    lines = -(-len(pictures) // columns)
    text = _wrapped(words, columns * width - GAP)
    room = (SMALL + 4) * len(text.split("\n")) if text else -GAP
    block = Image.new("RGB", (columns * width - GAP, lines * height + room), PAPER)
    for i, picture in enumerate(pictures):
        _hang(block, picture, i % columns * width, i // columns * height)
    ImageDraw.Draw(block).text((0, lines * height), text, SOFT, font(SMALL))
    return block


def _hang(sheet: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    sheet.paste(picture, (left, top), _rounded(picture.size))
    sheet.paste(INK, (left, top), _hairline(picture.size))


def _wrapped(text: str, width: int) -> str:
    """The text in lines of at most `width` pixels, where its words allow that."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(SMALL).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _text_width(text: str) -> int:
    return max(int(font(SMALL).getlength(line)) for line in text.split("\n"))


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
    if min(size) <= 2 * inset:
        return mask.resize(size)
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

    def draw(self, cell: int, labels: Sequence[str] | None = None) -> Image.Image:
        return grid([list(row) for row in zip(*self.columns, strict=True)], self.headers, labels, cell)


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

    A task of many right answers also shows `samples` answers that the prior draws, at temperature 0.8 where `settings`
    (by default the recipe's) have 0.
    Raises DataError when there is no row.
    """
    settings = settings or predictor.settings()
    model, learnt, device = predictor.model, predictor.tasks[task], predictor.device
    transforms = predictor.host.transforms(learnt, "test")
    batch = next(evaluation_batches(learnt, rows, count, limit=count, transforms=transforms), None)
    if batch is None:
        raise DataError(f"task {task}: there is no row to draw")
    real, batch = int(batch.valid.sum()), batch.to(device)
    columns, truths = _Columns(), learnt.truth(batch)[:real]

    def add(header: str, predictions: Sequence[Prediction]) -> None:
        columns.add(header, beside(predictor, predictions[:real], truths))

    inputs = inputs_of(batch)
    if inputs is not None:
        columns.add("input\nwhat the model sees", inputs[:real])
    sources = [s for s in available(model, CODE_SOURCES) if s != "random"]
    for source in sources:
        header = HEADERS[source] if len(sources) > 1 else "prediction\nthe model's answer"
        add(header, model.predict(batch, settings, row_seeds(seed, batch.keys), source))
        if source == "prior" and learnt.one_to_many:
            drawn = settings if settings.temperature else replace(settings, temperature=SEVERAL_TEMPERATURE)
            for i in range(1, samples + 1):
                seeds = row_seeds(seed, batch.keys, i)
                header = f"another\nsampled, T = {drawn.temperature:g}"
                add(header, model.predict(batch, drawn, seeds, "prior"))
    add("truth\nthe true answer", truths)
    words = [_wrapped(learnt.describe(asked), cell) for asked in _asked(batch)[:real]]
    return columns.draw(cell, words if any(words) else None)


def _asked(batch: Batch) -> list[dict[str, Any]]:
    """The inputs of every row of a batch."""
    return [{name: values[i] for name, values in batch.inputs.items()} for i in range(len(batch))]


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


def beside(predictor: Predictor, predictions: Sequence[Prediction], truths: Sequence[Prediction]) -> list[np.ndarray]:
    """Answers as pictures to be compared with those of the truth."""
    return [picture_of(predictor, p.task.comparable(p, t)) for p, t in zip(predictions, truths, strict=True)]


def picture_of(predictor: Predictor, prediction: Prediction) -> np.ndarray:
    """An answer as a picture uint8 [H, W, 3]: a plugin's cynosure_render, else the task's own drawing."""
    picture = predictor.host.render(prediction)
    return prediction.image() if picture is None else picture
