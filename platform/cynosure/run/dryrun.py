"""A dry run: what a recipe would train, on what schedule and at what cost, and what would keep it from starting."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import log2, prod
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import nn

from cynosure.build import Session, build_model, complete
from cynosure.config.recipe import Recipe
from cynosure.core.contracts import Dataset, Task
from cynosure.core.guided import GuidedModel, Stage
from cynosure.core.initial import planned
from cynosure.core.records import Batch, CodeSpec
from cynosure.data.loading import collate, prepared
from cynosure.data.mixing import Mixture, mixture_weights
from cynosure.errors import ConfigError, CynosureError, DataError, TrainingError
from cynosure.host import Host
from cynosure.progress import Progress
from cynosure.run.costs import Cost, Shadow
from cynosure.run.predictor import PICTURES
from cynosure.train import saving
from cynosure.train.inherit import inherit
from cynosure.train.loop import Run, build_optimizer
from cynosure.train.schedule import learning_rate
from cynosure.train.sharding import check_settings
from cynosure.train.stages import check_stages, check_streaming, micro_batches_per_step, stage_tasks
from cynosure.train.start import check_trackers

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Part:
    """A part of the model: parameters, and numbers that it learns without gradients."""

    name: str
    component: str
    parameters: int
    buffers: int


@dataclass(frozen=True)
class StagePlan:
    """What a stage would do. Costs are None where they could not be found out; memory is in bytes, of one process."""

    stage: Stage
    learning: int
    steps: int
    warmup: int
    rates: tuple[tuple[int, float], ...]
    processes: int
    accumulate: int
    batch_sizes: Mapping[str, int]
    shares: Mapping[str, float]
    epochs: Mapping[str, float | None]
    costs: Mapping[str, Cost] | None
    memory: Mapping[str, int] | None
    checkpointing: bool

    @property
    def examples(self) -> float:
        """Examples per optimizer step, over all processes."""
        return self.processes * self.accumulate * self._mean(self.batch_sizes)

    @property
    def flops(self) -> float | None:
        """Operations per optimizer step, over all processes."""
        if self.costs is None:
            return None
        return self.processes * self.accumulate * self._mean({task: cost.flops for task, cost in self.costs.items()})

    def _mean(self, values: Mapping[str, float]) -> float:
        """Of what a micro-batch has, by task, weighted by how often the task comes."""
        return sum(self.shares[task] * value for task, value in values.items())


@dataclass(frozen=True)
class DryRun:
    """What a recipe would train; `notes` are what would keep it from starting on this machine, or is not known here."""

    parts: tuple[Part, ...]
    spec: CodeSpec | None
    stages: tuple[StagePlan, ...]
    notes: tuple[str, ...]

    @property
    def code_bits(self) -> float:
        """What a code can hold."""
        return sum(s.length * log2(prod(s.limits)) for s in self.spec.segments) if self.spec else 0.0


def dry_run(recipe: Recipe, host: Host, directory: Path, resume: bool = False, processes: int = 1) -> DryRun:
    """Plan the training of a recipe without data, values or time, in as many processes.

    Raises TrainingError with everything in the recipe that would stop the real run before its first step. Data that is
    not there is noted only: `cynosure train` may be called elsewhere.
    """
    return _Planner(recipe, host, directory, resume, processes).plan()


@dataclass
class _Planner:
    recipe: Recipe
    host: Host
    directory: Path
    resume: bool
    processes: int
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rows: dict[str, int | None] = field(default_factory=dict)

    def plan(self) -> DryRun:
        datasets = self._datasets()
        self.recipe = complete(self.recipe, datasets, self.host)
        try:
            with planned() as missing, init_empty_weights():
                model = build_model(self.recipe, self.host)
            self.notes += missing
            self._notice_a_blind_prior(model)
        except DataError as error:  # what a task would have asked its dataset
            raise DataError("\n".join([*self.notes, str(error)])) from error
        session = Session(self.recipe, self.host, datasets)
        run = Run(session, model, self.directory, cast(Any, None), Progress())
        for check in (self._check_around, lambda: check_stages(self.recipe, self.processes), lambda: _inherit(run)):
            self._collect(check)
        for key, use in self.recipe.tasks.items():
            if use.weight and self.recipe.data[use.data].get("streaming"):
                self._collect(check_streaming, self.recipe, key)
        parts = tuple(_parts(self.recipe, model))
        shadow = Shadow(model)
        plans = [self._stage(run, shadow, stage) for stage in self._stages()]
        if self.problems:
            raise TrainingError("\n".join(dict.fromkeys(self.problems)))
        spec = model.tokenizer.spec if model.tokenizer else None
        return DryRun(parts, spec, tuple(p for p in plans if p), tuple(dict.fromkeys(self.notes)))

    def _notice_a_blind_prior(self, model: GuidedModel) -> None:
        """As of a recipe in which `--set model.prior.name` made another part of it, without the encoder it had."""
        prior = self.recipe.model.prior
        asked = [key for key, task in model.tasks.items() if set(task.inputs) & set(PICTURES)]
        if prior and asked and not prior.get("encoder"):
            self.notes.append(
                f"model.prior has no encoder: unless prior {prior['name']} looks at pictures itself, it writes "
                f"codes of {', '.join(asked)} without having seen them"
            )

    def _stages(self) -> list[Stage]:
        return [stage for stage in self.recipe.train.stages if getattr(self.recipe.train, stage).steps]

    def _collect(self, work: Callable[..., ResultT], *arguments: Any) -> ResultT | None:
        """The result of `work`, or one more problem."""
        try:
            return work(*arguments)
        except CynosureError as error:
            self.problems.append(str(error))
            return None

    def _check_around(self) -> None:
        """Beside the model: trackers, the run's folder, the machine."""
        check_trackers(self.recipe.train.trackers)
        check_settings()
        if self.resume:
            self._collect(saving.check_resumable, self.directory, self.recipe)
        elif saving.has_progress(self.directory):
            self.notes.append(f"{self.directory} already holds a run: add --resume, or give another --output")
        if self.recipe.train.precision == "fp16" and not (torch.cuda.is_available() or torch.xpu.is_available()):
            self.notes.append("train.precision: fp16 needs a GPU, and this machine has none")
        stepping = {plugin.name for plugin in self.host.plugins if "cynosure_training_step" in plugin.hooks}
        if changing := sorted(stepping - {"defaults"}):
            self.notes.append(
                f"plugin {' and '.join(changing)} may change training steps; costs are those of the model"
            )

    def _datasets(self) -> dict[str, Dataset]:
        """The datasets whose description is at hand, and how many rows they have to learn from."""
        found = {}
        for name, options in self.recipe.data.items():
            self.rows[name] = None
            try:
                with _offline():
                    dataset = self.host.components.build("dataset", options)
                    if dataset.info:
                        found[name] = dataset
                    self.rows[name] = dataset.count("train")
            except CynosureError as error:
                self.notes.append(f"data {name}: {error}")
        return found

    def _stage(self, run: Run, shadow: Shadow, stage: Stage) -> StagePlan | None:
        recipe, model, settings = self.recipe, run.model, getattr(self.recipe.train, stage)
        run = replace(run, stage=stage)
        model.set_stage(stage)
        accumulate = self._collect(micro_batches_per_step, recipe, stage, self.processes)
        optimizer = self._collect(build_optimizer, run)
        if accumulate is None or optimizer is None:
            return None
        costs = self._costs(shadow, stage)
        tasks = stage_tasks(recipe, stage)
        sizes = {task: recipe.tasks[task].batch_size for task in tasks}
        rows = self._rows(stage)
        shares = self._shares(rows, sizes)
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
        last = settings.steps - 1
        points = sorted({p for p in (0, settings.warmup, (settings.warmup + last) // 2, last) if 0 <= p <= last})
        schedule = (settings.steps, settings.lr, settings.warmup, settings.final_lr)
        drawn = {task: settings.steps * accumulate * self.processes * shares[task] * sizes[task] for task in tasks}
        return StagePlan(
            stage=stage,
            learning=learning,
            steps=settings.steps,
            warmup=settings.warmup,
            rates=tuple((step, learning_rate(step, *schedule)) for step in points),
            processes=self.processes,
            accumulate=accumulate,
            batch_sizes=sizes,
            shares=shares,
            epochs={task: drawn[task] / count if (count := rows[task]) else None for task in tasks},
            costs=costs,
            memory=self._memory(shadow, stage, optimizer, costs) if costs else None,
            checkpointing=recipe.train.checkpointing,
        )

    def _rows(self, stage: Stage) -> dict[str, int | None]:
        """How many rows a stage sees of each task: in `refit` those whose codes are sampled."""
        recipe = self.recipe
        rows = {task: self.rows[recipe.tasks[task].data] for task in stage_tasks(recipe, stage)}
        most = recipe.train.refit.examples
        return {task: count and min(count, most) for task, count in rows.items()} if stage == "refit" else rows

    def _shares(self, rows: Mapping[str, int | None], sizes: Mapping[str, int]) -> dict[str, float]:
        """How often each task's micro-batches come."""
        recipe = self.recipe
        weights = {task: recipe.tasks[task].weight for task in sizes}
        by = recipe.mixing.by
        if by != "weight" and not all(rows.values()):
            self.notes.append(f"mixing.by: {by} counts rows, which are not known here; the plan mixes by weight")
            by = "weight"
        counts = {task: count or 1 for task, count in rows.items()}
        return Mixture(mixture_weights(weights, counts, sizes, by, recipe.mixing.temperature)).shares

    def _costs(self, shadow: Shadow, stage: Stage) -> dict[str, Cost] | None:
        """What a micro-batch of each task costs."""
        recipe = self.recipe
        keeps_codes = stage == "refit" or (stage == "prior" and recipe.train.prior.views > 0)
        costs = {}
        for key in stage_tasks(recipe, stage):
            try:
                batch = self._batch(shadow.model, key, keeps_codes)
                costs[key] = shadow.cost(batch, recipe.tasks[key].batch_size, stage, recipe.train.precision)
            except ConfigError as error:
                self.problems.append(str(error))
                return None
            except Exception as error:  # Parts may do what tensors without values cannot.
                reason = str(error).strip().split("\n")[0]
                self.notes.append(f"the costs of stage {stage} cannot be found out, task {key} gave: {reason}")
                return None
        return costs

    def _batch(self, model: GuidedModel, key: str, codes: bool) -> Batch:
        task = model.tasks[key]
        transforms = self.host.transforms(task, "train")
        example = prepared(task, blank_row(task), np.random.default_rng(0), True, transforms)
        batch = collate(key, [example])
        if codes and model.tokenizer:
            spec = model.tokenizer.spec
            batch = replace(batch, codes=torch.zeros(1, spec.length, spec.depth, dtype=torch.long))
        return batch

    def _memory(
        self, shadow: Shadow, stage: Stage, optimizer: torch.optim.Optimizer, costs: Mapping[str, Cost]
    ) -> dict[str, int]:
        learning = [p for p in shadow.model.parameters() if p.requires_grad]
        averaged = sum(p.numel() for p in learning) * 4 if getattr(self.recipe.train, stage).ema else 0
        recomputing = self.recipe.train.checkpointing
        return {
            "weights": _bytes(shadow.model.parameters()),
            "codebook": _bytes(shadow.model.buffers()),
            "gradients": _bytes(learning),
            "optimizer": shadow.state_bytes(optimizer),
            "averaged weights": averaged,
            "activations": max(c.kept_recomputing if recomputing else c.kept for c in costs.values()),
        }


def blank_row(task: Task) -> dict[str, Any]:
    """A row with the columns that a task needs, at its size: a black picture of nothing, a metre away."""
    height, width = task.image_size
    columns: dict[str, Any] = {
        "image": np.zeros((height, width, 3), np.uint8),
        "panoptic": np.zeros((height, width, 2), np.int32),
        "crowd": np.zeros((height, width), np.int32),
        "depth": np.ones((height, width), np.float32),
        "degraded": np.zeros((height, width, 3), np.uint8),
        "caption": "nothing",
        "label": 0,
    }
    if unknown := [name for name in task.fields if name not in columns]:
        raise CynosureError(f"a column {unknown[0]}, of which nothing is known, is needed")
    return {name: columns[name] for name in task.fields}


def _parts(recipe: Recipe, model: GuidedModel) -> Iterator[Part]:
    """The parts as the recipe names them, each without the parts inside it."""
    options = recipe.model
    for name, outer, within in (
        ("tokenizer", options.tokenizer, "quantizer"),
        ("base", options.base, ""),
        ("prior", options.prior, "encoder"),
    ):
        module = getattr(model, name)
        if module is None or outer is None:
            continue
        inner = getattr(module, within, None) if within else None
        if isinstance(inner, nn.Module):
            yield _part(f"{name}.{within}", outer.get(within), inner, None)
        yield _part(name, outer, module, inner)
    for i, (module, outer) in enumerate(zip(model.criteria, options.criteria or (), strict=False)):
        yield _part(f"criteria.{i}", outer, module, None)


def _part(name: str, options: Any, module: nn.Module, without: Any) -> Part:
    def count(kind: str) -> int:
        inside = {id(t) for t in getattr(without, kind)()} if isinstance(without, nn.Module) else set()
        return sum(t.numel() for t in getattr(module, kind)() if id(t) not in inside)

    component = options["name"] if isinstance(options, Mapping) else str(options or "")
    return Part(name, component, count("parameters"), count("buffers"))


def _inherit(run: Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that weights without values cannot be filled
        inherit(run)


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@contextmanager
def _offline() -> Iterator[None]:
    """Nothing is fetched: what is not on this machine is not there."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
