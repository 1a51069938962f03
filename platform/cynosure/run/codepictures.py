"""Pictures of guiding codes: where they stand, what each changes, and what other codes give.

Shapes: L code length, D depth, K vocabulary, d width of a code vector, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cynosure.core.contracts import Tokenizer
from cynosure.core.records import CodeSpec, Prediction
from cynosure.data.augment import luma
from cynosure.run.codes import CodeReport, all_codes, code_vectors, copies, own_vectors
from cynosure.run.grids import INK, MARGIN, PAPER, SMALL, fit, font, grid, inputs_of, picture_of
from cynosure.run.predictor import row_picture
from cynosure.run.steering import Box

if TYPE_CHECKING:
    from cynosure.run.predictor import Predictor

PANEL = 264
"""Width and height, in pixels, that a panel is fitted into."""
SHEET, SMALLEST_TILE = (600, 3 * PANEL + 2 * 8), 48
"""Height and width of the sheet of heat maps, and the least width of one map; sheets of long codes grow."""
STRIP = 8
"""Codes in a line where they lie on no picture."""
FRAMED, LINED = 8, 20
"""Pixels of a cell from which it gets a frame in a heat map, and a line around it among the codes."""
TINT = 0.62
"""How much of a cell is its code's colour; the rest is the picture."""
_HEAT = np.array([(30, 20, 60), (130, 25, 110), (225, 70, 60), (250, 170, 40), (255, 250, 190)], dtype=np.float64)
ACCENT = (255, 190, 0)


def codes_picture(predictor: Predictor, row: Any, answer: Prediction, report: CodeReport) -> Image.Image:
    """One answer explained: input, codes, answer; how sure the prior was, what each code weighs, no codes at all.

    Below, for every code, the change of the output when that code alone is dropped, laid out as the codes are.
    """
    task, picture = answer.task, picture_of(predictor, answer)
    seen = inputs_of(copies(task, row, 1))
    source = row_picture(task, row)
    ground = _panel(picture if source is None else source)
    bare = next(iter(predictor.predict_iter([row], task.name, codes="none"))).predictions[0]
    influence, certain = report.influence, report.certainty
    colors = code_colors(_tokenizer(predictor), report.ids)
    first = {
        "input\nwhat the model sees": None if seen is None else _resized(seen[0], ground),
        "codes\nsimilar codes, similar colours": mosaic(ground, report.spec, colors, labels(report.ids)),
        "answer\ninput and codes": picture,
    }
    second = {
        "certainty\nof the prior in each code": None if certain is None else _shares(ground, report.spec, certain),
        "weight\nof each code in the answer": _weights(ground, report.spec, influence),
        "no codes\nthe base alone": picture_of(predictor, bare),
    }
    parts = [_row(first), _row(second)]
    brightest = f"{_scale(report.changes):.2g}"
    title = (
        f"what each code changes\nwhen it is dropped: one map a code, in the codes' own places; brightest: {brightest}"
    )
    sheet = heat_sheet(ground, report)
    parts.append(grid([[sheet]], [title], cell=max(sheet.shape[:2])))
    return _stack(parts)


def steering_picture(
    predictor: Predictor, row: Any, first: Prediction, others: Sequence[Prediction], known: np.ndarray
) -> Image.Image:
    """An answer, answers that keep some of its codes (`known` int64 [L, D], -1 is free), and the codes of all.

    The kept region is outlined; in the codes only those that changed are in full colour.
    """
    tokenizer = _tokenizer(predictor)
    spec, kept = tokenizer.spec, np.all(known >= 0, axis=1)
    source = row_picture(first.task, row)
    headers, answers, codes = [], [], []
    for number, answer in enumerate([first, *others]):
        if answer.codes is None:
            continue
        picture = _panel(picture_of(predictor, answer))
        ground = picture if source is None else _panel(source)
        changed = np.any(answer.codes != first.codes, axis=1)
        headers.append(
            f"new answer {number}\n{_count(changed.sum())} changed"
            if number
            else "first answer\noutlined: what is kept"
        )
        answers.append(outlined(picture, spec, kept) if placed(spec) else picture)
        strength = np.where(changed | (number == 0), TINT, TINT / 4)
        mosaic_of = mosaic(ground, spec, code_colors(tokenizer, answer.codes), labels(answer.codes), strength)
        codes.append(outlined(mosaic_of, spec, kept) if placed(spec) else mosaic_of)
    return grid([answers, codes], headers, ["answer", "codes"], cell=PANEL)


def code_colors(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """Colours uint8 [L, 3] of codes [L, D]: the nearer two code vectors, the more alike; or two ids, where codes share
    their vectors.

    The three principal components of the codebook span lightness and hue (CIELAB), so a model always has the same
    colours. Needs no more than the tokenizer's `vectors`.
    """
    if not own_vectors(tokenizer):
        turn = 1.7 * np.pi * (ids / tokenizer.spec.limits().numpy().clip(2)).mean(axis=1)
        return _rgb(np.zeros(len(ids)), np.cos(turn), np.sin(turn))
    codebook = code_vectors(tokenizer, all_codes(tokenizer.spec)).reshape(-1, tokenizer.code_dim)
    mean = codebook.mean(axis=0)
    _, spread, axes = np.linalg.svd(codebook - mean, full_matrices=False)
    axes, deviation = axes[:3], spread[:3] / len(codebook) ** 0.5
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # else either end is green
    parts = (code_vectors(tokenizer, ids[None])[0] - mean) @ axes.T / deviation.clip(1e-12)
    a, b, light = np.pad(np.tanh(parts / 1.5), ((0, 0), (0, 3 - parts.shape[1]))).T
    return _rgb(light, a, b)


def _rgb(light: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Three shares in [-1, 1] of CIELAB, each [L] -> uint8 [L, 3]."""
    from skimage.color import lab2rgb

    lab = np.stack([62 + 22 * light, 70 * a, 70 * b], axis=-1)
    colors: np.ndarray = np.rint(lab2rgb(lab[None])[0] * 255).astype(np.uint8)
    return colors


def cells(spec: CodeSpec, size: tuple[int, int]) -> list[tuple[int, Box]]:
    """(position, box) of the codes that stand on a picture of `size` (H, W); a strip where they have no place."""
    rows, columns = _arrangement(spec)
    first = spec.length - rows * columns if placed(spec) else 0
    down, across = (np.rint(np.linspace(0, n, m + 1)).astype(int) for n, m in zip(size, (rows, columns), strict=True))
    places = [(i, *divmod(i - first, columns)) for i in range(first, spec.length)]
    return [(i, (int(across[c]), int(down[r]), int(across[c + 1]), int(down[r + 1]))) for i, r, c in places]


def placed(spec: CodeSpec) -> bool:
    """Whether most codes have a place on the picture: of several scales the finest have, of several numbers for each
    place no one has it alone."""
    return spec.grid is not None and 2 * math.prod(spec.grid) > spec.length


def _arrangement(spec: CodeSpec) -> tuple[int, int]:
    columns = min(STRIP, spec.length)
    return spec.grid if spec.grid and placed(spec) else (-(-spec.length // columns), columns)


def mosaic(
    ground: np.ndarray,
    spec: CodeSpec,
    colors: np.ndarray,
    texts: Sequence[str],
    strength: np.ndarray | float = TINT,
) -> np.ndarray:
    """Cells in `colors` [L, 3] over the grey picture uint8 [H, W, 3], with `texts` where they fit: uint8 [H, W, 3]."""
    rows, columns = _arrangement(spec)
    if not placed(spec):  # codes of no place: cells of their own instead of a picture
        side = PANEL // columns
        ground = np.full((side * rows, side * columns, 3), 255, dtype=np.uint8)
    shares = np.broadcast_to(strength, len(colors))
    pixels = np.repeat(luma(ground)[..., None], 3, axis=-1)
    places = cells(spec, (pixels.shape[0], pixels.shape[1]))
    for i, (left, top, right, bottom) in places:
        part = pixels[top:bottom, left:right]
        part += (colors[i] - part) * shares[i]
    image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for i, box in places:
        if min(box[2] - box[0], box[3] - box[1]) >= LINED:
            draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=(255, 255, 255, 110))
        _write(draw, texts[i], box)
    return np.asarray(image)


def _write(draw: ImageDraw.ImageDraw, text: str, box: Box) -> None:
    size = min(SMALL, (box[3] - box[1]) // (text.count("\n") + 2))
    letters = font(size) if size >= 9 else None
    if letters is None or max(letters.getlength(line) for line in text.split("\n")) > box[2] - box[0] - 6:
        return
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    draw.multiline_text(
        middle, text, (255, 255, 255), letters, anchor="mm", align="center", stroke_width=2, stroke_fill=(*INK, 200)
    )


def labels(ids: np.ndarray) -> list[str]:
    """Codes [L, D] as the text of a cell, one line a level."""
    return ["\n".join(map(str, levels)) for levels in ids]


def _shares(ground: np.ndarray, spec: CodeSpec, shares: np.ndarray) -> np.ndarray:
    return mosaic(ground, spec, heat_colors(shares), [f"{v:.0%}" for v in shares])


def _weights(ground: np.ndarray, spec: CodeSpec, influence: np.ndarray) -> np.ndarray:
    total = influence.sum() or 1.0
    return mosaic(
        ground, spec, heat_colors(influence / (influence.max() or 1)), [f"{v / total:.0%}" for v in influence]
    )


def heat_colors(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of any shape -> colours float64 [..., 3] from dark violet over orange to pale yellow."""
    at = np.clip(values, 0, 1) * (len(_HEAT) - 1)
    return np.stack([np.interp(at, np.arange(len(_HEAT)), channel) for channel in _HEAT.T], axis=-1)


def _scale(changes: np.ndarray) -> float:
    """What counts as brightest: nearly the largest change of all, so that one pixel does not darken every map."""
    return float(np.quantile(changes, 0.999)) or 1.0


def heat_sheet(ground: np.ndarray, report: CodeReport) -> np.ndarray:
    """One small map of the whole picture for every code, where the code stands; its own cell is framed in white."""
    spec, gap = report.spec, 4
    rows, columns = _arrangement(spec)
    aspect = ground.shape[0] / ground.shape[1]
    width = max(SMALLEST_TILE, int(min(SHEET[1] / columns, SHEET[0] / (rows * aspect))) - gap)
    height = max(1, round(width * aspect))
    small = Image.fromarray(ground).resize((width, height), Image.Resampling.LANCZOS)
    dim = np.repeat(luma(np.asarray(small))[..., None], 3, axis=-1) * 0.55
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), PAPER)
    own = dict(cells(spec, (height, width)))
    scale = _scale(report.changes)
    first = min(own)
    for i, box in own.items():
        change = Image.fromarray(report.changes[i] / scale).resize((width, height), Image.Resampling.BILINEAR)
        heat = np.clip(np.asarray(change), 0, 1)[..., None]
        tile = Image.fromarray(np.rint(dim + (heat_colors(heat[..., 0]) - dim) * heat**0.5).astype(np.uint8))
        if placed(spec) and min(box[2] - box[0], box[3] - box[1]) >= FRAMED:
            ImageDraw.Draw(tile).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=(255, 255, 255))
        r, c = divmod(i - first, columns)
        sheet.paste(tile, (c * (width + gap), r * (height + gap)))
    return np.asarray(sheet)


def outlined(picture: np.ndarray, spec: CodeSpec, chosen: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] with a line around the cells of `chosen` bool [L]."""
    size = picture.shape[0], picture.shape[1]
    inside = np.zeros(size, dtype=bool)
    for i, (left, top, right, bottom) in cells(spec, size):
        inside[top:bottom, left:right] = chosen[i]
    image = picture.copy()
    for thickness, color in ((4, INK), (3, ACCENT)):
        image[inside & ~_eroded(inside, thickness)] = color
    return image


def _eroded(mask: np.ndarray, by: int) -> np.ndarray:
    """The pixels of a mask [H, W] that lie more than `by` from its edge; the border of the picture is an edge too."""
    padded = Image.fromarray(np.pad(mask, by).astype(np.uint8)).filter(ImageFilter.MinFilter(2 * by + 1))
    return np.asarray(padded)[by:-by, by:-by] > 0


def _tokenizer(predictor: Predictor) -> Tokenizer:
    assert predictor.model.tokenizer is not None
    return predictor.model.tokenizer


def _panel(picture: np.ndarray) -> np.ndarray:
    return np.asarray(fit(picture, PANEL))


def _resized(picture: np.ndarray, like: np.ndarray) -> np.ndarray:
    size = (like.shape[1], like.shape[0])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _count(number: int) -> str:
    return f"{number} code" if number == 1 else f"{number} codes"


def _row(panels: dict[str, np.ndarray | None]) -> Image.Image:
    return grid([list(panels.values())], list(panels), cell=PANEL)


def _stack(images: Iterable[Image.Image]) -> Image.Image:
    """Images of the same paper under each other; margins between them are not doubled."""
    images = list(images)
    width, height = max(i.width for i in images), sum(i.height - MARGIN for i in images) + MARGIN
    stacked, top = Image.new("RGB", (width, height), PAPER), 0
    for image in images:
        stacked.paste(image, ((width - image.width) // 2, top))
        top += image.height - MARGIN
    return stacked
