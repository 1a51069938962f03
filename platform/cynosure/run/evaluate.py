"""Evaluation: every task's metrics with codes from oracle and prior, at random and without, beside a trivial baseline.

The comparison is the point: the oracle is the ceiling, random and no codes show that codes matter, and an answer that
does not beat the baseline is none. A published protocol changes what is compared, never the columns.
Shapes: B batch, L code length, D depth, K vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cynosure.core.contracts import Protocol, Task
from cynosure.core.guided import CODE_SOURCES, CodeSource, GuidedModel
from cynosure.core.metrics import gathered
from cynosure.core.records import Batch, Codes, Prediction, SampleSettings
from cynosure.data.loading import batches_with_rows
from cynosure.errors import CynosureError, DataError, unknown
from cynosure.progress import Progress
from cynosure.run.codestatistics import CodeStatistics, codebook_use, total, union
from cynosure.run.protocols import protocols_of
from cynosure.run.report import Report, TaskReport
from cynosure.run.sampling import sample_settings
from cynosure.run.seeds import row_seeds

if TYPE_CHECKING:
    from cynosure.build import Session
    from cynosure.run.predictor import Predictor
    from cynosure.train.loop import Run

BATCH_SIZE = 32
BASELINE_ROWS = 512
"""Training rows that the trivial baseline learns from."""
SAMPLES = 8
"""Predictions that the hook cynosure_evaluated is shown."""

log = logging.getLogger("cynosure.run")


def evaluate(
    model: GuidedModel | Predictor,
    session: Session,
    tasks: Sequence[str] | None = None,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    settings: SampleSettings | Mapping[str, Any] | None = None,
    sources: Sequence[CodeSource] = CODE_SOURCES,
    baseline: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    run: Any = None,
    rank: int = 0,
    world: int = 1,
    protocol: Mapping[str, Any] | str | None = None,
    save: Path | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
) -> Report:
    """Measure `tasks` (default: all) on the first `limit` rows of a split.

    Sources that the model cannot give are left out: a model without tokenizer has only 'none', one without a prior no
    'prior'. `settings` default to the recipe's `eval.sampling`; a mapping changes single values. The model is left in
    evaluation mode. With `world` processes each measures its own rows and all report the whole (metrics add up over
    ranks by themselves). `run` is what the hook cynosure_evaluated sees (default: `model`).

    `protocol` names a published protocol, or maps `name` and its options: the tasks it measures are then measured by
    its rules, and their answers, with codes from the prior, are written to the folder `save`. `metrics` are measured
    besides, registered ones by name with their options.

    Raises CynosureError for an unknown task, metric or protocol and for a task that the protocol does not measure,
    DataError for a split without rows and data without a column that the protocol needs.
    """
    guided = model if isinstance(model, GuidedModel) else model.model
    guided.eval()
    for name in tasks or ():
        if name not in guided.tasks:
            raise CynosureError(unknown("task of this model", name, guided.tasks))
    protocols = protocols_of(protocol, session, guided.tasks, tasks) if protocol else {}
    prescribed = next(iter(protocols.values())).sampling if protocols else {}
    settings = sample_settings(session.recipe, settings, prescribed)
    progress = progress or Progress()
    reports, statistics, lost = {}, [], []
    chosen = list(protocols or tasks or ())
    for name, rows in _measured_rows(session, chosen or guided.tasks, split, bool(chosen), progress).items():
        task, rules = guided.tasks[name], protocols.get(name)
        folder = None if save is None else save / name if len(protocols) > 1 else save
        more = metrics or {}
        measurement = _Measurement(guided, task, session, sources, settings, seed, world, rules, folder, more)
        if baseline:
            measurement.add_baseline(batch_size)
        with progress.bar(f"evaluating {name}", _count(rows, limit)) as bar:
            for batch, seen in measurement.batches(rows, split, batch_size, limit, rank):
                measurement.add(batch.to(measurement.device), seen)
                bar.advance(len(batch) * world)
        reports[name] = measurement.report()
        measurement.finish_saving(rank)
        statistics += [measurement.codes] if measurement.codes else []
        lost.append(measurement.lost)
        session.host.evaluated(run or model, task, reports[name].metrics, measurement.samples)
    if nowhere := [metric for metric in metrics or {} if all(metric in each for each in lost)]:
        raise CynosureError(f"metric {', '.join(nowhere)} compares what no answer here has: choose another --metric")
    codebook = codebook_use(statistics, next(guided.parameters()).device)
    sampled = {k: v for k, v in asdict(settings).items() if k != "known"}
    described = next(({"name": _name(protocol), **each.config.model_dump()} for each in protocols.values()), None)
    return Report(split, sampled, reports, codebook, described)


def _measured_rows(
    session: Session, names: Iterable[str], split: str, chosen: bool, progress: Progress
) -> dict[str, Any]:
    """Rows of a split by task; tasks of weight 0 whose data are gone are left out, with a message, unless chosen.

    Raises DataError for other data that are not there, or if none is left.
    """
    found, gone = {}, []
    for name in names:
        try:
            found[name] = session.rows(name, split)
        except DataError as error:
            if chosen or session.recipe.tasks[name].weight:
                raise
            gone.append(f"task {name} is not measured, its data are gone: {error}")
    if gone and not found:
        raise DataError("\n".join(gone))
    for message in gone:
        progress.say(message)
    return found


def _name(protocol: Mapping[str, Any] | str | None) -> Any:
    return protocol["name"] if isinstance(protocol, Mapping) else protocol


def during_training(run: Run) -> dict[str, float]:
    """Evaluation of the tasks that train, as the recipe's `eval` has it, named for logs.

    Stage `codes` leaves the untrained prior out.
    """
    options = run.recipe.eval
    report = evaluate(
        run.model,
        run.session,
        tasks=[key for key, use in run.recipe.tasks.items() if use.weight],
        split=options.split,
        limit=options.limit,
        batch_size=options.batch_size,
        sources=[s for s in CODE_SOURCES if s != "prior" or run.stage != "codes"],
        baseline=False,
        progress=run.progress,
        run=run,
        rank=run.accelerator.process_index,
        world=run.accelerator.num_processes,
    )
    return {f"eval/{name}": value for name, value in report.flat().items()}


def _count(rows: Any, limit: int | None) -> int:
    count = len(rows) if hasattr(rows, "__len__") else limit or 0
    return count if limit is None else min(count, limit)


def _real_rows(batch: Batch) -> Batch:
    """The batch without the rows that only pad it."""
    if bool(batch.valid.all()):
        return batch
    count = int(batch.valid.sum())  # padding comes last

    def head(values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v[:count] for k, v in values.items()}

    inputs, targets = head(batch.inputs), head(batch.targets)
    return replace(batch, inputs=inputs, targets=targets, keys=batch.keys[:count], valid=batch.valid[:count])


def available(model: GuidedModel, sources: Sequence[CodeSource]) -> list[CodeSource]:
    """Those of `sources` that the model can take its codes from."""
    if model.tokenizer is None:
        return ["none"]
    return [s for s in sources if s != "prior" or model.prior is not None]


class _Measurement:
    """Metrics and code statistics of one task, batch by batch."""

    def __init__(
        self,
        model: GuidedModel,
        task: Task,
        session: Session,
        sources: Sequence[CodeSource],
        settings: SampleSettings,
        seed: int,
        world: int,
        protocol: Protocol | None,
        folder: Path | None,
        more: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.model, self.task, self.session, self.more = model, task, session, more
        self.settings, self.seed, self.world = settings, seed, world
        self.protocol, self.folder = protocol, folder
        self.sources = available(model, sources)
        self.main = "prior" if "prior" in self.sources else self.sources[-1]
        self.device = next(model.parameters()).device
        self.metrics: dict[str, dict[str, Any]] = {source: self._metrics(source) for source in self.sources}
        self.lost: set[str] = set()  # metrics of values that the answers do not have
        self.codes: CodeStatistics | None = None
        if model.tokenizer is not None:
            self.codes = CodeStatistics(model.tokenizer.spec, world, ["prior"] if "prior" in self.sources else [])
        self.rows, self.unknown, self.seconds = 0, 0, 0.0
        self.samples: list[Prediction] = []
        self.saved: list[tuple[int, Any]] = []
        self._baseline: Callable[[Batch], list[Prediction]] | None = None

    def _metrics(self, column: str) -> dict[str, Any]:
        components = self.session.host.components
        wanted = dict((self.protocol or self.task).metrics())
        wanted |= {name: {**wanted.get(name, {}), **options} for name, options in self.more.items()}
        built = {name: components.build("metric", {"name": name, **options}) for name, options in wanted.items()}
        return {
            name: metric.to(self.device)
            for name, metric in built.items()
            if column in (getattr(metric, "columns", None) or (column,))
        }

    def batches(
        self, rows: Any, split: str, batch_size: int, limit: int | None, rank: int = 0, world: int | None = None
    ) -> Iterator[tuple[Batch, list[Mapping[str, Any]]]]:
        """Batches without padding, as the protocol has them prepared, each with the dataset's own rows."""
        transforms = self.session.host.transforms(self.task, split)
        shown = {}
        if self.protocol is not None:
            protocol = self.protocol
            transforms = [*transforms, lambda example, rng: protocol.example(example)]
            shown = {"shown": protocol.row}
        world = world or self.world
        for batch, seen in batches_with_rows(self.task, rows, batch_size, limit, rank, world, transforms, **shown):
            yield _real_rows(batch), seen

    def add_baseline(self, batch_size: int) -> None:
        """Let the task learn its trivial answer from the first training rows; without any there is no such column."""
        try:
            rows = self.session.rows(self.task.name, "train")
        except DataError as error:
            log.warning("no baseline for task %s: %s", self.task.name, error)
            return
        batches = self.batches(rows, "train", batch_size, BASELINE_ROWS, world=1)
        self._baseline = self.task.baseline(batch for batch, _ in batches)
        self.metrics["baseline"] = self._metrics("baseline")

    @torch.no_grad()
    def add(self, batch: Batch, rows: Sequence[Mapping[str, Any]]) -> None:
        """Measure a batch; `rows` are the dataset's."""
        truth = self._truth(batch, rows)
        oracle = self.model.encode(batch) if self.codes is not None else None
        drawn = {"oracle": oracle}
        for source in self.sources:
            start = self._clock()
            if source != "oracle":
                drawn[source] = self.model.codes(batch, source, self.settings, row_seeds(self.seed, batch.keys))
            predictions = self.model.decode(batch, drawn[source])
            if source == self.main:
                self.seconds += self._clock() - start
                self.samples += predictions[: SAMPLES - len(self.samples)]
            answers = self._answers(predictions, rows)
            self._compare(source, answers, truth)
            if source == self.main:
                self._save(answers, rows, batch.keys.tolist())
        if self._baseline is not None:
            self._compare("baseline", self._answers(self._baseline(batch), rows), truth)
        if self.codes is not None and oracle is not None:
            self.codes.add(oracle, drawn.get("prior"), self._nats(batch, oracle))
        self.rows += len(batch)

    def _truth(self, batch: Batch, rows: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """The true answers of a batch; none where the data has none, as for tasks that learn from pictures alone."""
        if self.protocol is not None:
            return [self.protocol.truth(row) for row in rows]
        if batch.targets:
            return self.task.truth(batch)
        if not self.unknown:
            log.warning("task %s: the rows have no answers, so that nothing is compared with them", self.task.name)
        self.unknown += len(batch)
        return []

    def _answers(self, predictions: list[Prediction], rows: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        if self.protocol is None:
            return predictions
        return [self.protocol.answer(p, row) for p, row in zip(predictions, rows, strict=True)]

    def _save(self, answers: list[Prediction], rows: Sequence[Mapping[str, Any]], numbers: list[int]) -> None:
        if self.folder is not None and self.protocol is not None:
            for answer, row, number in zip(answers, rows, numbers, strict=True):
                self.saved.append((number, self.protocol.save(answer, row, number, self.folder)))

    def finish_saving(self, rank: int) -> None:
        """Write what lists all saved answers, once for all processes."""
        if self.folder is not None and self.protocol is not None:
            saved = sorted((each for part in gathered(self.saved) for each in part), key=lambda each: each[0])
            if rank == 0:
                self.protocol.index([record for _, record in saved], self.folder)

    def _nats(self, batch: Batch, oracle: Codes) -> float:
        """What the oracle's codes cost the prior, in nats per code; equal for equal seeds where it is drawn."""
        if self.model.prior is None or "prior" not in self.sources:
            return 0.0
        with torch.random.fork_rng([] if self.device.type == "cpu" else [self.device], device_type=self.device.type):
            torch.manual_seed(int(row_seeds(self.seed, batch.keys[:1])[0]))
            losses = self.model.prior.loss(batch.inputs, oracle, batch.task)
            return float(losses["nll"] if "nll" in losses else sum(losses.values()))

    def _compare(self, source: str, predictions: list[Prediction], truth: list[Prediction]) -> None:
        if not truth:
            return
        for name, metric in self.metrics[source].items():
            if set(getattr(metric, "compares", ())) <= truth[0].values.keys():
                metric.update(predictions, truth)
            else:
                self.lost.add(name)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def report(self) -> TaskReport:
        counts = [self.rows, self.unknown, self.rows / max(self.seconds, 1e-9)]
        rows, unknown, speed = total(counts, self.device, self.world)
        if rows == 0:
            raise DataError(f"task {self.task.name}: there is no row to evaluate; check the split and --limit.")
        self.lost = set(self.metrics[self.main]) if unknown == rows else union(self.lost, self.world)
        values = {source: _values(metrics, self.lost) for source, metrics in self.metrics.items()}
        codes = {} if self.codes is None else self.codes.report(self.device)
        return TaskReport(int(rows), values, codes, speed, self.main)


def _values(metrics: Mapping[str, Any], lost: Collection[str]) -> dict[str, float]:
    """What every metric says; all are asked, since processes wait for each other there, and those `lost` left out."""
    found = {name: metric.compute() for name, metric in metrics.items()}
    return {k: float(v) for name, values in found.items() if name not in lost for k, v in values.items()}
