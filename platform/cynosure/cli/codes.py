"""`cynosure codes`: the guiding codes behind an answer, what each of them does, and answers with some of them kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cynosure.cli.app import host_of
from cynosure.cli.checked import check_device, check_output, write_text
from cynosure.cli.predict import file_names, find_sources, finish, refuse_to_overwrite, save
from cynosure.cli.sampling import Guidance, Steps, Temperature, TopK, TopP, given_sampling
from cynosure.errors import CynosureError, DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from cynosure.core.records import CodeSpec
    from cynosure.run.predictor import Answer, Predictor
    from cynosure.run.sampling import SamplingOptions

SOURCES = ("prior", "oracle", "random")
REGION = "positions and ranges such as 0-3,8, or a box of the picture in pixels, x0,y0:x1,y1; may be repeated"


def add(app: typer.Typer) -> None:
    app.command("codes")(codes)


def codes(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="a run's folder, or one of its model files")],
    sources: Annotated[list[str], typer.Argument(help="pictures, folders or globs; texts where the task reads text")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="needed where the run has several")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for pictures and codes")] = Path("codes"),
    start: Annotated[
        str, typer.Option("--codes", help="first codes: prior, oracle, random, or a file that this command wrote")
    ] = "prior",
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help=f"keep these codes, draw the others: {REGION}")
    ] = None,
    resample: Annotated[
        list[str] | None, typer.Option("--resample", help="draw these codes, keep the others; written as for --keep")
    ] = None,
    set_code: Annotated[
        list[str] | None,
        typer.Option("--set-code", metavar="POS=ID", help="put code ID at a position; may be repeated"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="new answers with the kept codes")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="another seed gives other answers")] = 0,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    steps: Steps = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="answers at a time; else the recipe's")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, ...; else cuda if there is one")] = None,
) -> None:
    """Show the guiding codes of an answer and what each of them changes; keep some and draw the others anew."""
    from cynosure.process import tune

    tune()
    check_device(device)
    sampling = given_sampling(temperature, top_k, top_p, guidance, steps)
    from cynosure.progress import ConsoleProgress, use_progress
    from cynosure.run.loading import load
    from cynosure.run.steering import spec_of

    predictor = load(run, host=host_of(context), device=device)
    name, spec = predictor.task(task).name, spec_of(predictor.model)
    found, bad = find_sources(predictor, [name], sources, "oracle" if start == "oracle" else "prior")
    files = file_names(found)
    refuse_to_overwrite(found, output, [f"{stem}.{name}" for stem in files])
    answers = predictor.predict_iter(
        found, name, seed=seed, codes=_first_codes(start, spec), batch_size=batch_size, **sampling
    )
    with use_progress(ConsoleProgress()).bar(f"codes of {name}", len(found)) as bar:
        for answer in answers:
            bar.advance(1, Path(str(answer.source)).name)
            if answer.error:
                bad[str(answer.source)] = str(answer.error)
                continue
            path = output / f"{files[answer.index]}.{name}"
            steered = bool(keep or resample or set_code)
            try:
                known = _known(answer, spec, keep or [], resample or [], set_code or []) if steered else None
            except DataError as error:
                bad[str(answer.source)] = str(error)
                continue
            told = _explain(predictor, answer, path, batch_size, seed)
            if known is not None:
                told |= _steer(predictor, answer, known, path, samples, seed + 1, sampling, batch_size)
            write_text(file := path.with_name(f"{path.name}.codes.json"), json.dumps(told) + "\n")
            typer.echo(file)
    finish(bad, bool(set(map(str, found)) - set(bad)))


def _first_codes(start: str, spec: CodeSpec) -> Any:
    from cynosure.run.steering import read_codes

    if start in SOURCES:
        return start
    if not (file := Path(start).expanduser()).is_file():
        raise CynosureError(f"codes come from {', '.join(SOURCES)} or a file, and there is no file '{start}'")
    return read_codes(file, spec)


def _explain(predictor: Predictor, answer: Answer, path: Path, batch_size: int | None, seed: int) -> dict[str, Any]:
    """Draw the codes of an answer to `path`.codes.png; returns what there is to say about them."""
    from cynosure.run.codepictures import codes_picture
    from cynosure.run.codes import report

    first = answer.predictions[0]
    found = report(predictor, answer.row, first.task.name, _codes(answer), batch_size, seed)
    _draw(codes_picture(predictor, answer.row, first, found), path.with_name(f"{path.name}.codes.png"))
    return {"source": str(answer.source), "task": first.task.name, **found.to_dict(_size(answer))}


def _codes(answer: Answer) -> np.ndarray:
    codes = answer.predictions[0].codes
    if codes is None:
        raise CynosureError("the answer came without its codes: disable the plugin whose cynosure_predict made it")
    return codes


def _known(answer: Answer, spec: CodeSpec, keep: list[str], resample: list[str], replace: list[str]) -> np.ndarray:
    from cynosure.run.steering import fix

    return fix(_codes(answer), spec, _size(answer), keep, resample, replace)


def _steer(
    predictor: Predictor,
    answer: Answer,
    known: np.ndarray,
    path: Path,
    samples: int,
    seed: int,
    sampling: SamplingOptions,
    batch_size: int | None,
) -> dict[str, Any]:
    """New answers with the `known` codes, as files and in `path`.steered.png; returns their codes."""
    from cynosure.run.codepictures import steering_picture
    from cynosure.run.codes import plain

    first = answer.predictions[0]
    sampling = {**sampling, "temperature": predictor.settings(samples=2, **sampling).temperature}
    new = next(
        predictor.predict_iter(
            [answer.row],
            first.task.name,
            samples=samples if (known < 0).any() else 1,
            seed=seed,
            codes=known,
            batch_size=batch_size,
            **sampling,
        )
    )
    if new.error:
        raise new.error
    for file in save(new, path):
        typer.echo(file)
    picture = steering_picture(predictor, answer.row, first, new.predictions, known)
    _draw(picture, path.with_name(f"{path.name}.steered.png"))
    return {"known": plain(known), "new": [plain(p.codes) for p in new.predictions if p.codes is not None]}


def _size(answer: Answer) -> tuple[int, int] | None:
    """(H, W) of the picture that was given."""
    from cynosure.run.predictor import row_picture

    picture = row_picture(answer.predictions[0].task, answer.row)
    return None if picture is None else (picture.shape[0], picture.shape[1])


def _draw(image: Image, file: Path) -> None:
    check_output(file)
    image.save(file)
    typer.echo(file)
