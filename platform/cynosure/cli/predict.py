"""`cynosure predict`: answers for pictures, folders of pictures or texts, written as files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cynosure.cli.app import host_of
from cynosure.cli.checked import check_device
from cynosure.cli.editing import Boxes, Caption, EdgeOption, Edges, Expand, Invert, Label, Mask, edits, selection
from cynosure.cli.sampling import Guidance, Steps, Temperature, TopK, TopP, given_sampling
from cynosure.errors import CynosureError, DataError

if TYPE_CHECKING:
    import numpy as np

    from cynosure.core.guided import CodeSource
    from cynosure.core.records import Prediction
    from cynosure.run.predictor import Answer, Predictor

GRID = "grid.png"
GRID_ROWS = 24
"""A grid shows no more sources than this; it is for a look, not for thousands."""
NAME_BYTES = 160
"""Of a text or a name in a file's name, to which more is added."""
THUMBNAIL, LABEL = 288, 28
"""Pixels of a picture and characters of a name in the grid."""


class Codes(StrEnum):
    prior = "prior"
    oracle = "oracle"
    random = "random"
    none = "none"


def add(app: typer.Typer) -> None:
    app.command("predict")(predict)


def predict(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="a run's folder, or one of its model files")],
    sources: Annotated[list[str], typer.Argument(help="pictures, folders or globs; texts where the task reads text")],
    tasks: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="may be repeated; else all that read pictures")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the answers")] = Path("predictions"),
    codes: Annotated[Codes, typer.Option("--codes", help="where guiding codes come from")] = Codes.prior,
    styles: Annotated[
        list[str] | None,
        typer.Option("--style", metavar="CODE", help="codes by hand: 3, or 3,0,1,2, or all; may be repeated"),
    ] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", help="0 leaves the picture as it is, 1 is the whole answer")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="different answers for every source")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="another seed gives other samples")] = 0,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    steps: Steps = None,
    mask: Mask = None,
    box: Boxes = None,
    invert: Invert = False,
    expand: Expand = None,
    edge: EdgeOption = Edges.fade,
    label: Label = None,
    caption: Caption = None,
    grid: Annotated[bool, typer.Option("--grid", help=f"also write {GRID}: inputs and answers side by side")] = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="answers at a time; else the recipe's")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; else cuda if there is one")] = None,
) -> None:
    """Run a trained model on pictures; exits with 1 when some sources are bad, with 2 when all are.

    With --mask, --box or --expand, draw that part of each picture anew.
    """
    from cynosure.process import tune

    tune()
    check_device(device)
    sampling = given_sampling(temperature, top_k, top_p, guidance, steps)
    chosen, inputs = selection(mask, box, expand, invert, edge), {"label": label, "caption": caption}
    if chosen and codes is not Codes.prior:
        raise CynosureError(f"what is drawn anew gets its codes from the prior: leave --codes {codes.value} out")
    if chosen and (styles or strength is not None):
        raise CynosureError("what is drawn anew has no style and no strength: leave --style and --strength out")
    if styles and (codes is not Codes.prior or samples > 1):
        raise CynosureError("a style is a code already, with one answer: leave --codes and --samples out")
    if not chosen and (label is not None or caption is not None):
        raise CynosureError("--label and --caption say what to draw: also say where, by --mask, --box or --expand")
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.run.loading import load
    from cynosure.run.styles import name_of, parse_styles

    predictor = load(run, host=host_of(context), device=device)
    given = parse_styles(styles, predictor.model) if styles else None
    labels = [f"style-{name_of(each)}" for each in given] if given is not None else []
    names = tasks or picture_tasks(predictor)
    found, bad = find_sources(predictor, names, sources, "oracle" if chosen else codes.value)
    files = file_names(found)
    read = [*found, str(mask)] if mask else found
    refuse_to_overwrite(read, output, [f"{stem}.{task}" for stem in files for task in names], grid)
    sheet = Sheet() if grid else None
    progress, written = use_progress(ConsoleProgress()), False
    for task in names:
        options: dict[str, Any] = {"samples": samples, "seed": seed, "batch_size": batch_size, **sampling}
        if chosen:
            answers = edits(predictor, found, chosen, task, inputs, **options)
        else:
            options |= {"codes": codes.value if given is None else given, "strength": strength}
            answers = predictor.predict_iter(found, task, **options)
        with progress.bar(f"predicting {task}", len(found)) as bar:
            for answer in answers:
                if answer.error:
                    bad[str(answer.source)] = str(answer.error)
                else:
                    written = True
                    for file in save(answer, output / f"{files[answer.index]}.{task}", labels):
                        typer.echo(file)
                    if sheet:
                        sheet.add(predictor, answer, labels)
                bar.advance(1, Path(str(answer.source)).name)
    if sheet and sheet.rows:
        typer.echo(sheet.save(output / GRID))
    finish(bad, written)


def picture_tasks(predictor: Predictor) -> list[str]:
    """The tasks of a run that answer about pictures; those that make them where there are no others."""
    from cynosure.run.predictor import reads_pictures

    return [name for name, task in predictor.tasks.items() if reads_pictures(task)] or list(predictor.tasks)


def find_sources(
    predictor: Predictor, tasks: Sequence[str], given: Sequence[str], codes: CodeSource = "prior"
) -> tuple[list[str], dict[str, str]]:
    """Sources to answer with such codes, and what is wrong with the others; texts are taken as they are."""
    from cynosure.data.pictures import find_pictures
    from cynosure.run.predictor import MAPS, PICTURES, needed_columns

    firsts = [needed_columns(predictor.task(name), codes)[:1] for name in tasks]
    if not any(column in (*PICTURES, *MAPS) for first in firsts for column in first):
        return list(given), {}
    found: dict[str, None] = {}
    bad: dict[str, str] = {}
    for pattern in given:
        try:
            found.update(dict.fromkeys(map(str, find_pictures([pattern]))))
        except DataError as error:
            bad[pattern] = str(error)
    return list(found), bad


def file_names(sources: Sequence[str]) -> list[str]:
    """One name for each source, unlike all others even where case does not count: the stem, or more of the path."""
    stems = [_plain(Path(source).stem) for source in sources]
    parents = [str(Path(source).absolute().parent) for source in sources]
    top = os.path.commonpath(parents) if parents else ""
    folders = [Path(os.path.relpath(parent, top)).parts for parent in parents]
    longer = [_plain("-".join([*parts, stem])) for parts, stem in zip(folders, stems, strict=True)]
    endings = [f"{name}{Path(source).suffix.replace('.', '_')}" for name, source in zip(longer, sources, strict=True)]
    names = list(stems)
    for better in (longer, endings):
        names = [better[i] if clashes else names[i] for i, clashes in enumerate(_clashes(names))]
    taken: set[str] = set()
    for i, name in enumerate(names):
        number = 1
        while names[i].lower() in taken:
            number += 1
            names[i] = f"{name}_{number}"
        taken.add(names[i].lower())
    return names


def _clashes(names: Sequence[str]) -> Iterator[bool]:
    count = Counter(name.lower() for name in names)
    return (count[name.lower()] > 1 for name in names)


def _plain(text: str) -> str:
    """A text as part of a file name, which has 255 bytes in most file systems."""
    plain = re.sub(r"[^\w.()+-]+", "_", text).strip("_")[:80]
    return plain.encode()[:NAME_BYTES].decode(errors="ignore") or "_"


def refuse_to_overwrite(sources: Sequence[str], output: Path, answers: Sequence[str], grid: bool = False) -> None:
    """Raises CynosureError when an input lies where an answer may be written: the name of an answer, then anything."""
    inputs = {os.path.realpath(source) for source in sources}
    names = set(answers)
    for file in output.iterdir() if output.is_dir() else ():
        begins = (file.name[: mark.start()] for mark in re.finditer(r"[-_.]", file.name))
        written = (grid and file.name == GRID) or any(begin in names for begin in begins)
        if written and os.path.realpath(file) in inputs:
            raise CynosureError(f"the answer could replace the input {file}: choose another folder with --output")


def save(answer: Answer, path: Path, labels: Sequence[str] = ()) -> list[Path]:
    """Write every prediction of an answer as `path`.png, when there are several with its label, else its number."""
    written = []
    for label, prediction in _labelled(answer, labels):
        target = path.with_name(f"{path.name}-{label}.png" if label else f"{path.name}.png")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            written += prediction.save(target)
        except OSError as error:
            reason = error.strerror or error
            raise CynosureError(f"could not write {target} ({reason}): choose another --output") from error
    return written


def _labelled(answer: Answer, labels: Sequence[str]) -> Iterator[tuple[str, Prediction]]:
    """Predictions with what tells them apart; nothing where there is one."""
    count = len(answer.predictions)
    names = (labels or [str(number) for number in range(1, count + 1)]) if count > 1 else [""]
    return zip(names, answer.predictions, strict=True)


class Sheet:
    """The grid: thumbnails only, so that big pictures do not pile up."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, np.ndarray]] = {}
        self.labels: dict[int, str] = {}

    def add(self, predictor: Predictor, answer: Answer, labels: Sequence[str] = ()) -> None:
        from cynosure.run.grids import picture_of
        from cynosure.run.predictor import row_picture

        if answer.index not in self.rows and len(self.rows) == GRID_ROWS:
            return
        task = answer.predictions[0].task
        self.labels[answer.index] = Path(str(answer.source)).name[:LABEL]
        row = self.rows.setdefault(answer.index, {})
        picture = row_picture(task, answer.row)
        if picture is not None and "input" not in row:
            row["input"] = _thumbnail(picture)
        for label, prediction in _labelled(answer, labels):
            header = f"{task.name} {label.replace('-', ' ', 1)}" if label else task.name
            row[header] = _thumbnail(picture_of(predictor, prediction))

    def save(self, path: Path) -> Path:
        from cynosure.run.grids import grid

        headers = list(dict.fromkeys(header for row in self.rows.values() for header in row))
        rows = [[row.get(header) for header in headers] for row in self.rows.values()]
        labels = list(self.labels.values()) if len(rows) > 1 else None
        grid(rows, headers, labels, THUMBNAIL).save(path)
        return path


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    import numpy

    from cynosure.run.grids import fit

    return numpy.asarray(fit(picture, THUMBNAIL))


def finish(bad: dict[str, str], something_done: bool) -> None:
    """Name what could not be done; exits with 1 after partial success, raises when there was none."""
    if not bad:
        return
    lines = "\n".join(f"  {message}" for message in bad.values())
    if not something_done:
        raise CynosureError(f"nothing could be predicted:\n{lines}")
    typer.secho(f"{len(bad)} of the sources could not be used:\n{lines}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1)
