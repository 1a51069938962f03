"""A loaded model that answers: pictures (or texts) of any size in, answers at their own resolution out.

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

import numpy as np
import torch

from cynosure.core.contracts import Task
from cynosure.core.guided import CodeSource, GuidedModel
from cynosure.core.records import Prediction, SampleSettings
from cynosure.data.files import map_to_rgb
from cynosure.data.loading import collate
from cynosure.data.pictures import load_map, load_picture, to_uint8
from cynosure.errors import CynosureError, DataError, unknown
from cynosure.run.sampling import SamplingOptions, sample_settings
from cynosure.run.seeds import row_seeds
from cynosure.run.steering import Box, check_codes, spec_of
from cynosure.run.styles import SEVERAL, Style, chosen_codes

if TYPE_CHECKING:
    from cynosure.config.recipe import Recipe
    from cynosure.host import Host
    from cynosure.run.editing import Edge

OnError = Literal["raise", "collect"]
"""What becomes of a bad source's DataError."""
PICTURES = ("image", "degraded")
"""Input columns that hold pictures."""
MAPS = ("depth", "panoptic")
"""Input columns that hold a number a pixel; a source for any column but these and pictures is taken as it is."""


@dataclass
class Request:
    """What the hook cynosure_predict answers; a wrapper may change it before the answer is made.

    `rows` hold the task's inputs at their own size, pictures as `read_row` gives them; `seeds` (int64 [B]) choose among
    the answers of a row; `settings.known` [1, L, D] holds for every row, [B, L, D] for one each. `task` is the model's,
    at the strength that was asked for. Wanted: one prediction a row, at the resolution of its picture.
    """

    task: Task
    rows: Sequence[Mapping[str, Any]]
    seeds: torch.Tensor
    settings: SampleSettings
    codes: CodeSource = "prior"


@dataclass(frozen=True)
class Answer:
    """What became of one source: its predictions, or the error that names what is wrong with it.

    `row` holds the inputs as `read_row` gives them.
    """

    source: Any
    index: int
    row: Mapping[str, Any] = field(default_factory=dict)
    predictions: list[Prediction] = field(default_factory=list)
    error: DataError | None = None


@dataclass(frozen=True)
class _Wish:
    """What all sources of a call are asked, `size` rows at a time."""

    task: Task
    samples: int
    seed: int
    settings: SampleSettings
    codes: CodeSource
    size: int


class Predictor:
    """A model with its recipe and plugins. Made by `cynosure.load`."""

    def __init__(self, model: GuidedModel, recipe: Recipe, host: Host) -> None:
        self.model = model
        self.recipe = recipe
        self.host = host

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks that the model has learnt, by name."""
        return self.model.tasks

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def task(self, name: str | None = None) -> Task:
        """A task by name; without one the only task. Raises CynosureError when that leaves a choice."""
        if name is None and len(self.tasks) > 1:
            raise CynosureError(f"this model knows several tasks, name one of {', '.join(self.tasks)}")
        name = name or next(iter(self.tasks))
        if name not in self.tasks:
            raise CynosureError(unknown("task of this model", name, self.tasks))
        return self.tasks[name]

    def predict(
        self,
        sources: Any,
        task: str | None = None,
        *,
        samples: int = 1,
        seed: int = 0,
        codes: CodeSource | np.ndarray = "prior",
        style: Style | None = None,
        strength: float | None = None,
        batch_size: int | None = None,
        on_error: OnError = "raise",
        **sampling: Unpack[SamplingOptions],
    ) -> Any:
        """One source -> a Prediction; a list of sources -> a list of them. With `samples` > 1, a list in its place.

        A source is a path, bytes, a PIL image, an array or a tensor (see `load_picture`), a string where the task reads
        text, or a row: a mapping of columns, which may hold the truth for `codes="oracle"`. `codes` may also be codes
        themselves, integers [L, D] such as those of another prediction; the prior writes those that are -1. `style` is
        the whole code in one number, or in L D of them; "all", or codes [S, L, D], give a list of answers in place of
        one, for every style in use. `strength`, of tasks with that option, is from 0, the picture itself, to 1. `task`
        may be left out where the model has one task. An answer depends on the source, its place in the list, `seed` and
        the number of the sample, never on the batch. Unless given, `sampling` is as in the recipe's `eval.sampling`,
        but several samples of a recipe with temperature 0 are drawn at 0.8: temperature, guidance, steps, and top_k and
        top_p as one value or several by depth. `on_error="collect"` puts the DataError of a bad source in its place.

        Raises DataError, naming the source, and CynosureError for an unknown task or codes that cannot be had.
        """
        if on_error not in get_args(OnError):
            raise CynosureError(unknown("on_error", on_error, get_args(OnError)))
        single = not isinstance(sources, (list, tuple, Iterator))
        codes = chosen_codes(self.model, codes, style)
        several = samples > 1 or np.ndim(codes) == SEVERAL
        answers = self.predict_iter(
            [sources] if single else sources,
            task,
            samples=samples,
            seed=seed,
            codes=codes,
            strength=strength,
            batch_size=batch_size,
            **sampling,
        )
        results: list[Any] = []
        for answer in answers:
            if answer.error and on_error == "raise":
                raise answer.error
            results.append(answer.error or (answer.predictions if several else answer.predictions[0]))
        return results[0] if single else results

    def predict_iter(
        self,
        sources: Iterable[Any],
        task: str | None = None,
        *,
        samples: int = 1,
        seed: int = 0,
        codes: CodeSource | np.ndarray = "prior",
        style: Style | None = None,
        strength: float | None = None,
        batch_size: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[Answer]:
        """The answers of `predict` one after another, in order; only one batch of pictures is in memory at a time."""
        chosen = self.task(task) if strength is None else self.task(task).at_strength(strength)
        if samples < 1:
            raise CynosureError(f"samples must be 1 or more, not {samples}")
        settings = self.settings(samples, **sampling)
        codes = chosen_codes(self.model, codes, style)
        if not isinstance(codes, str):
            if np.ndim(codes) == SEVERAL and samples > 1:
                raise CynosureError("several codes have an answer each: leave samples out")
            every = codes if np.ndim(codes) == SEVERAL else [codes]
            if not len(every):
                raise CynosureError("there are no codes [S, L, D] to answer with: give one or more, or leave codes out")
            known = np.stack([check_codes(each, spec_of(self.model)) for each in every])
            settings, codes = replace(settings, known=torch.from_numpy(known)), "prior"
            samples = max(samples, len(known))
        size = self.recipe.eval.batch_size if batch_size is None else batch_size
        if size < 1:
            raise CynosureError(f"batch_size is how many answers are made at a time, 1 or more, not {size}")
        return self._answers(sources, _Wish(chosen, samples, seed, settings, codes, size))

    def generate(
        self,
        prompts: str | Sequence[str] = (),
        task: str | None = None,
        *,
        labels: str | int | Sequence[str | int] = (),
        samples: int = 1,
        seed: int = 0,
        batch_size: int | None = None,
        **sampling: Any,
    ) -> Any:
        """Pictures made from prompts, from labels (names or numbers) or, for a task that needs neither, from nothing.

        One of them -> a Prediction; a list -> a list of them. With `samples` > 1, a list in its place. `task` may be
        left out where one task fits. `sampling` and what decides about a picture are as in `predict`.

        Raises CynosureError where no task makes pictures from what is given, DataError for an unknown label.
        """
        from cynosure.run.generate import requests

        single = isinstance(prompts, str) or isinstance(labels, str | int) or not (prompts or labels)
        prompts = [prompts] if isinstance(prompts, str) else prompts
        labels = [labels] if isinstance(labels, str | int) else labels
        chosen, rows = requests(self, task, prompts, labels)
        found = self.predict(rows, chosen.name, samples=samples, seed=seed, batch_size=batch_size, **sampling)
        return found[0] if single else found

    def edit(
        self,
        picture: Any,
        mask: Any = None,
        task: str | None = None,
        *,
        boxes: Sequence[Box] = (),
        invert: bool = False,
        expand: Box = (0, 0, 0, 0),
        edge: Edge = "fade",
        label: int | str | None = None,
        caption: str | None = None,
        samples: int = 1,
        seed: int = 0,
        batch_size: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Prediction | list[Prediction]:
        """Draw a part of a picture anew -> a Prediction with the whole picture; with `samples` > 1 a list of them.

        The part is the white of `mask` (a picture as `predict` takes it, of the same size) and `boxes` (left, top,
        right, bottom) in pixels, with `invert` all the rest, and the borders by which the picture is to `expand` (left,
        top, right, bottom). `edge`, `fade` or `blur`: how it meets the rest. `label` or `caption` say what to draw,
        for a task that reads them. See `run.editing.edit`.
        """
        from cynosure.run.editing import Selection, edit

        found = edit(
            self,
            picture,
            Selection(mask, boxes, invert, expand, edge),
            task,
            {"label": label, "caption": caption},
            samples,
            seed,
            batch_size,
            **sampling,
        ).predictions
        return found if samples > 1 else found[0]

    def export(
        self,
        path: str | Path,
        task: str | None = None,
        format: str | None = None,
        style: int | Sequence[int] | str | None = None,
    ) -> Path:
        """Write a task's way from picture to picture as a file that other programs run; see `run.export.export`."""
        from cynosure.run.export import export

        return export(self, Path(path), task, format, style)

    def settings(self, samples: int = 1, **sampling: Unpack[SamplingOptions]) -> SampleSettings:
        """How the prior is sampled: what is given, else what the recipe says, else what suits the number of samples."""
        return sample_settings(self.recipe, sampling, samples=samples)

    def _answers(self, sources: Iterable[Any], wish: _Wish) -> Iterator[Answer]:
        numbered = enumerate(sources)
        while part := list(islice(numbered, max(1, wish.size // wish.samples))):
            read = [_read(wish.task, index, source, wish.codes) for index, source in part]
            answered = iter(self._answered([answer for answer in read if not answer.error], wish))
            yield from (answer if answer.error else next(answered) for answer in read)

    def _answered(self, good: list[Answer], wish: _Wish) -> list[Answer]:
        """Sources that could be read with their predictions, or with what the task says is wrong with one."""
        samples, size, known = wish.samples, wish.size, wish.settings.known
        rows = [answer.row for answer in good for _ in range(samples)]
        if known is not None and len(known) > 1:
            known = known.repeat(len(good), 1, 1)
        keys = torch.tensor([answer.index for answer in good], dtype=torch.long).repeat_interleave(samples)
        seeds = row_seeds(wish.seed, keys, torch.arange(samples).repeat(len(good)))
        found: list[Prediction] = []
        try:
            for start in range(0, len(rows), size):
                here = slice(start, start + size)
                asked = wish.settings
                if known is not None and len(known) > 1:
                    asked = replace(asked, known=known[here])
                found += self._request(Request(wish.task, rows[here], seeds[here], asked, wish.codes))
        except DataError as error:
            if len(good) == 1:
                return [replace(good[0], error=error)]
            return [answer for each in good for answer in self._answered([each], wish)]
        return [replace(answer, predictions=found[i * samples : (i + 1) * samples]) for i, answer in enumerate(good)]

    def _request(self, request: Request) -> list[Prediction]:
        predictions = self.host.predict(self, request)
        return self.answer(request) if predictions is None else predictions

    @torch.inference_mode()
    def answer(self, request: Request) -> list[Prediction]:
        """The built-in answer to a request: prepare, codes, base model, decode, back to the picture's own size."""
        task, rows = request.task, request.rows
        distinct = {id(row): row for row in rows}
        examples = {key: task.prepare(row, np.random.default_rng(0), False) for key, row in distinct.items()}
        batch = collate(task.name, [examples[id(row)] for row in rows]).to(self.device)
        settings = request.settings
        if settings.known is not None:
            settings = replace(settings, known=settings.known.to(self.device).expand(len(rows), -1, -1))
        drawn = self.model.codes(batch, request.codes, settings, request.seeds.to(self.device))
        predictions = self.model.decode(batch, drawn, task)
        return [_at_own_size(p, row) for p, row in zip(predictions, rows, strict=True)]


def _read(task: Task, index: int, source: Any, codes: CodeSource) -> Answer:
    try:
        return Answer(source, index, read_row(task, source, codes))
    except DataError as error:
        return Answer(source, index, error=error)


def read_row(task: Task, source: Any, codes: CodeSource = "prior") -> dict[str, Any]:
    """A source as a row of the columns that a task needs for answers with such codes; pictures are uint8 [H, W, 3], or
    uint16 where the task takes 16 bits and the source has them.

    'alpha' [H, W] of the same dtype is added where the picture is transparent. Raises DataError where a column is
    missing; a row of a task that makes pictures may hold one alone, unless the prior is to write its codes.
    """
    needed = needed_columns(task, codes)
    if not needed and not isinstance(source, Mapping):
        raise DataError(f"task {task.name} makes pictures out of nothing: use `cynosure generate`")
    row = dict(source) if isinstance(source, Mapping) else {needed[0]: source}
    enough = codes != "prior" and all(name in row for name in needed_columns(task, "oracle"))
    if not enough and (missing := [name for name in needed if name not in row]):
        raise DataError(f"task {task.name} also needs {', '.join(missing)}: give a mapping with {', '.join(needed)}")
    for name in PICTURES:
        if name in row:
            picture = load_picture(row[name], bits=task.bits)
            row[name] = picture.image
            if picture.alpha is not None and name in needed:
                row["alpha"] = picture.alpha
    row |= {name: load_map(row[name]) for name in MAPS if name in row and name in (*needed, *task.inputs)}
    return row


def needed_columns(task: Task, codes: CodeSource = "prior") -> tuple[str, ...]:
    """What a source of a task must hold: its inputs, or for the oracle's codes the picture or map that they are to
    describe where the inputs hold no picture."""
    if codes == "oracle" and not reads_pictures(task):
        return tuple(name for name in task.fields if name in (*PICTURES, *MAPS))[:1]
    return task.inputs


def reads_pictures(task: Task) -> bool:
    """Whether a task answers about a picture, and does not make one."""
    return any(name in PICTURES for name in task.inputs)


def row_picture(task: Task, row: Mapping[str, Any]) -> np.ndarray | None:
    """The first picture of a row to look at, uint8 [H, W, 3], if it has one; of several the task's input, which may be
    a map."""
    picture = _first_picture(task, row)
    if picture is not None:
        return to_uint8(picture)
    shown = next((name for name in task.inputs if name in MAPS and name in row), None)
    return None if shown is None else map_to_rgb(np.asarray(row[shown]), classes=shown == "panoptic")


def _first_picture(task: Task, row: Mapping[str, Any]) -> np.ndarray | None:
    return next((row[name] for name in (*task.inputs, *PICTURES) if name in PICTURES and name in row), None)


def _at_own_size(prediction: Prediction, row: Mapping[str, Any]) -> Prediction:
    image = _first_picture(prediction.task, row)
    if image is None:
        return prediction
    restored = prediction.task.restore(prediction, image)
    if "alpha" in row:
        restored = Prediction(restored.task, restored.values, restored.codes, {**restored.meta, "alpha": row["alpha"]})
    return restored
