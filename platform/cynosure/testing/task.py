"""Checks of tasks: from a row to an answer that its users can open.

Rows are synthetic and have every canonical column. A task that reads a column of its own says what a row has there, by
a seed and the picture's size (H, W): `TESTING = {"row": lambda seed, size: {"keypoints": [[seed, 3], [5, 8]]}}`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cynosure.core.contracts import DatasetInfo, Task
from cynosure.core.records import Batch, Example, Prediction
from cynosure.data.loading import collate
from cynosure.testing.checks import Subject, check, needed
from cynosure.testing.samples import IMAGE_SIZE, INFO, ROWS, row

SIZES = ((37, 53), (64, 20), IMAGE_SIZE, (5, 7))


def build(subject: Subject) -> Task:
    options = {key: value for key, value in subject.options.items() if key != "name"}
    configured = subject.cls.configure(options, _info(subject.cls))
    torch.manual_seed(0)
    return subject.host.components.build("task", {**configured, "name": subject.name}, IMAGE_SIZE)


def row_of(task: Task | type[Task], seed: int = 0, size: tuple[int, int] = (37, 53), thing: int = 2) -> dict[str, Any]:
    """A synthetic row, with the columns that the task's TESTING adds."""
    own = getattr(task, "TESTING", {}).get("row")
    return {**row(seed, size, thing), **(own(seed, size) if own else {})}


def _info(cls: type[Task]) -> DatasetInfo:
    """The synthetic dataset, with the columns that the task's TESTING adds."""
    added = [name for name in row_of(cls) if name not in row()]
    return INFO.model_copy(update={"fields": (*INFO.fields, *added)})


@needed("task")
def columns_are_known(subject: Subject) -> None:
    require_columns(build(subject))


def require_columns(task: Task) -> None:
    """One sentence for a task that reads a column of its own, instead of what every check would stumble over."""
    there_is = row_of(task)
    missing = [name for name in task.fields if name not in there_is]
    assert not missing, (
        f"nothing is checked: task {task.name} reads the column {', '.join(missing)}, which synthetic rows lack; give "
        "its class TESTING = {'row': a function of (seed, size) that returns what a row has there by name}"
    )


def batch_of(task: Task, count: int = ROWS, columns: Sequence[str] | None = None) -> Batch:
    """Synthetic rows of different sizes as a batch; `columns` limits what the rows hold."""
    return collate(task.name, [_prepare(task, seed, columns=columns) for seed in range(count)])


def _prepare(
    task: Task,
    seed: int,
    train: bool = False,
    size: tuple[int, int] | None = None,
    columns: Sequence[str] | None = None,
) -> Example:
    example_row = row_of(task, seed, size or SIZES[seed % len(SIZES)], thing=2 + seed % 2)
    if columns is not None:
        example_row = {name: example_row[name] for name in columns}
    return task.prepare(example_row, np.random.default_rng(seed), train)


def _shapes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (v.shape, str(v.dtype)) if isinstance(v, np.ndarray) else type(v) for name, v in values.items()}


def _zeros(task: Task) -> torch.Tensor:
    return torch.zeros(ROWS, task.channels, *IMAGE_SIZE)


def _loss(task: Task, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    return torch.stack(list(task.loss(outputs, batch).values())).sum()


def _distance(a: Sequence[Prediction], b: Sequence[Prediction]) -> float:
    """Mean absolute difference of all values; numbers of classes or segments differ by how often, not by how much."""

    def one(x: np.ndarray, y: np.ndarray) -> float:
        x, y = np.asarray(x), np.asarray(y)
        return float((x != y).mean() if x.dtype.kind in "biu" and x.dtype != np.uint8 else np.abs(x * 1.0 - y).mean())

    return sum(one(p.values[k], t.values[k]) for p, t in zip(a, b, strict=True) for k in t.values if k in p.values)


@check("task")
def examples_have_fixed_shapes(subject: Subject) -> None:
    task = build(subject)
    found = [
        (_shapes(example.inputs), _shapes(example.targets))
        for train in (True, False)
        for example in (_prepare(task, seed, train, size) for seed, size in enumerate(SIZES))
    ]
    different = [shapes for shapes in found if shapes != found[0]]
    assert not different, f"examples differ in shape or dtype: {found[0]} and {different[0] if different else ''}"


@check("task")
def images_are_in_range(subject: Subject) -> None:
    image = _prepare(build(subject), 0).inputs.get("image")
    if image is not None:
        got, wanted = (image.shape, image.dtype), ((3, *IMAGE_SIZE), np.float32)
        assert got == wanted, f"the input image must be float32 [3, H, W], not {image.dtype} {list(image.shape)}"
        assert np.abs(image).max() <= 1, f"the input image must lie in [-1, 1], but reaches {np.abs(image).max():.3g}"


@check("task")
def floats_are_float32(subject: Subject) -> None:
    example = _prepare(build(subject), 0)
    for name, value in (*example.inputs.items(), *example.targets.items()):
        if isinstance(value, np.ndarray | np.floating) and value.dtype.kind == "f":
            assert value.dtype == np.float32, f"prepare must give '{name}' as float32, not {value.dtype}"


@check("task")
def preparing_is_a_pure_function(subject: Subject) -> None:
    task = build(subject)
    given, untouched = row_of(task), row_of(task)
    first, again = (task.prepare(given, np.random.default_rng(7), True) for _ in range(2))
    for a, b in ((first.inputs, again.inputs), (first.targets, again.targets)):
        changed = [name for name in a if not np.array_equal(a[name], b[name])]
        assert not changed, f"the same row and rng give another {', '.join(changed)}; draw from the rng given only"
    changed = [name for name in given if not np.array_equal(given[name], untouched[name])]
    assert not changed, f"prepare changed the row's {', '.join(changed)}"


@check("task")
def predicts_without_targets(subject: Subject) -> None:
    task = build(subject)
    unknown = [name for name in task.inputs if name not in task.fields]
    assert not unknown, f"inputs {', '.join(unknown)} are not among the fields {', '.join(task.fields)}"
    batch = batch_of(task, columns=task.inputs)
    predictions = task.decode(_zeros(task), batch)
    assert len(predictions) == ROWS, f"decode gave {len(predictions)} answers for {ROWS} rows"


@check("task")
def targets_are_planes(subject: Subject) -> None:
    task = build(subject)
    encoded = task.encode_targets(batch_of(task))
    got, wanted = tuple(encoded.shape), (ROWS, task.channels, *IMAGE_SIZE)
    assert got == wanted, f"encode_targets must give [B, channels, H, W] = {wanted}, not {got}"
    assert encoded.dtype == torch.float32, f"encode_targets must give float32, not {encoded.dtype}"
    assert bool(encoded.isfinite().all()), "encode_targets gives values that are not finite"


@check("task")
def loss_is_a_finite_scalar(subject: Subject) -> None:
    task = build(subject)
    outputs = (0.1 * torch.randn(_zeros(task).shape)).requires_grad_()
    losses = task.loss(outputs, batch_of(task))
    assert losses, "loss gives no term"
    for name, loss in losses.items():
        assert loss.ndim == 0, f"loss '{name}' must be a scalar, not {list(loss.shape)}"
        assert bool(loss.isfinite()), f"loss '{name}' is {float(loss.detach())}"
    torch.stack(list(losses.values())).sum().backward()
    gradient = outputs.grad
    assert gradient is not None and bool(gradient.isfinite().all()), "the gradient of the loss is not finite"
    assert bool(gradient.any()), "the gradient of the loss is zero; nothing would be learnt"


@check("task")
def minimising_the_loss_leads_to_the_truth(subject: Subject) -> None:
    task = build(subject)
    batch = batch_of(task)
    truth = task.truth(batch)
    outputs = _zeros(task).requires_grad_()
    before = _distance(task.decode(outputs, batch), truth)
    optimizer = torch.optim.Adam([outputs], lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        _loss(task, outputs, batch).backward()
        optimizer.step()
    after = _distance(task.decode(outputs, batch), truth)
    with torch.no_grad():
        improved = _loss(task, outputs, batch) < _loss(task, _zeros(task), batch)
    assert bool(improved), "outputs that follow the gradient have no lower loss"
    how_far = f"{after:.3g} against {before:.3g}"
    assert after < 0.7 * before, f"outputs of lower loss decode to answers hardly nearer to the truth: {how_far}"


@check("task")
def loss_is_a_mean_over_rows(subject: Subject) -> None:
    task = build(subject)
    example, outputs = _prepare(task, 0), 0.1 * torch.randn(_zeros(task)[:1].shape)
    losses = []
    for count in (1, ROWS):
        torch.manual_seed(0)
        batch = collate(task.name, [example] * count)
        losses.append(float(_loss(task, outputs.repeat(count, 1, 1, 1), batch)))
    one, several = losses
    told = f"the loss of a row is {one:.4g}, that of the same row {ROWS} times is {several:.4g}"
    assert abs(several - one) <= 1e-3 * max(abs(one), 1e-3), f"{told}; make it a mean over the batch"


@check("task")
def decode_answers_row_by_row(subject: Subject) -> None:
    task = build(subject)
    outputs = torch.randn(_zeros(task).shape, generator=torch.Generator().manual_seed(0))
    batch = batch_of(task)
    together, again = (task.decode(outputs.clone(), batch) for _ in range(2))
    assert _close(together, again), "decode gives another answer the second time"
    for number, whole in enumerate(together):
        alone = task.decode(outputs[number : number + 1], collate(task.name, [_prepare(task, number)]))
        assert _close(alone, [whole]), "a row's answer depends on the rows beside it"


def _close(a: Sequence[Prediction], b: Sequence[Prediction]) -> bool:
    """Equal but for rounding, which may flip a label here and there."""
    return _distance(a, b) <= 1e-3


@check("task")
def truth_and_answers_have_one_form(subject: Subject) -> None:
    task = build(subject)
    batch = batch_of(task)
    answers, truths = task.decode(_zeros(task), batch), task.truth(batch)
    assert len(answers) == len(truths) == ROWS, f"{ROWS} rows gave {len(answers)} answers and {len(truths)} truths"
    assert set(answers[0].values) == set(truths[0].values), (
        f"decode gives {sorted(answers[0].values)} but truth gives {sorted(truths[0].values)}"
    )
    for name, value in truths[0].values.items():
        got, wanted = np.shape(answers[0].values[name]), np.shape(value)
        assert got == wanted, f"'{name}' has shape {list(got)} in answers and {list(wanted)} in truths"


@check("task")
def answers_can_be_drawn(subject: Subject) -> None:
    task = build(subject)
    batch = batch_of(task)
    for prediction in (*task.decode(_zeros(task), batch), *task.truth(batch)):
        picture = prediction.image()
        good = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert good, f"draw must give uint8 [H, W, 3], not {picture.dtype} {list(picture.shape)}"


@check("task")
def nan_is_an_answer_too(subject: Subject) -> None:
    """A model that has diverged is evaluated and drawn to the end, so that one can see it."""
    task = build(subject)
    for prediction in task.decode(torch.full_like(_zeros(task), torch.nan), batch_of(task)):
        picture = prediction.image()
        assert picture.dtype == np.uint8, f"of NaN draw must give uint8 [H, W, 3], not {picture.dtype}"


@check("task")
def answers_return_to_the_picture_s_size(subject: Subject) -> None:
    task = build(subject)
    for seed, size in enumerate(SIZES):
        image = row_of(task, seed, size)["image"]
        restored = task.restore(task.decode(_zeros(task), batch_of(task))[0], image)
        got = restored.image().shape[:2]
        assert got == size, f"restore must give {size} pixels, not {got}"


@check("task")
def answers_can_be_saved(subject: Subject) -> None:
    task = build(subject)
    with tempfile.TemporaryDirectory() as folder:
        files = task.truth(batch_of(task))[0].save(Path(folder) / "answer.png")
        assert files, "save must return the files it wrote"
        for file in files:
            assert Path(file).is_file() and Path(file).stat().st_size, f"save returned {file.name} but did not write it"


@check("task")
def a_network_answers_as_predicting_does(subject: Subject) -> None:
    """What `cynosure export` writes, where the task can be exported."""
    task = build(subject)
    base = torch.nn.Conv2d(3, task.channels, 3, padding=1).requires_grad_(False)
    network = task.network(base)
    for seed, size in enumerate(SIZES if network else ()):
        given = {name: row_of(task, seed, size)[name] for name in task.inputs}
        batch = collate(task.name, [task.prepare(given, np.random.default_rng(0), False)])
        (image,) = given.values()
        wanted = task.restore(task.decode(base(batch.inputs["image"]), batch)[0], image).image()
        assert network is not None
        found = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
        assert tuple(found.shape) == (1, 3, *size), f"the network gives {list(found.shape)} for {size} pixels"
        worst = float((255 * found[0].permute(1, 2, 0) - torch.from_numpy(wanted)).abs().max())
        assert worst < 0.6, f"at {size} pixels the network is {worst:.2f} levels of 8 bits from what predicting gives"


@check("task")
def metrics_are_registered(subject: Subject) -> None:
    task = build(subject)
    metrics = task.metrics()
    assert metrics, "a task names at least one metric, or nobody can tell whether it works"
    truth = task.truth(batch_of(task))
    for name, options in metrics.items():
        metric = subject.host.components.build("metric", {"name": name, **options})
        metric.update(truth, truth)
        assert metric.compute(), f"metric '{name}' gives no value"


@check("task")
def baseline_answers(subject: Subject) -> None:
    task = build(subject)
    batch = batch_of(task)
    answers, truths = task.baseline(iter([batch, batch]))(batch), task.truth(batch)
    assert len(answers) == ROWS, f"the baseline gave {len(answers)} answers for {ROWS} rows"
    assert set(answers[0].values) == set(truths[0].values), "the baseline's answers lack what truths have"
