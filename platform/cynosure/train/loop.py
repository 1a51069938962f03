"""The training loop of every stage. accelerate owns devices, precision, ranks and trackers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from cynosure.build import Session, build_model
from cynosure.core.guided import GuidedModel, Stage
from cynosure.core.records import Batch, StepOutput
from cynosure.data.loading import TaskData, micro_batches
from cynosure.data.mixing import Mixture, mixture_weights
from cynosure.errors import TrainingError
from cynosure.progress import Bar, Progress
from cynosure.train import saving
from cynosure.train.logs import Logs
from cynosure.train.schedule import Average, learning_rate, set_learning_rate
from cynosure.train.stages import prepare_stage, stage_data

Evaluate = Callable[["Run"], Mapping[str, float]]


@dataclass
class Run:
    """A training run, as hooks see it."""

    session: Session
    model: GuidedModel
    directory: Path
    accelerator: Accelerator
    progress: Progress
    stage: Stage = "codes"
    step: int = 0
    finished: set[str] = field(default_factory=set)

    @property
    def recipe(self) -> Any:
        return self.session.recipe

    @property
    def host(self) -> Any:
        return self.session.host

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def settings(self) -> Any:
        """The recipe's settings of the present stage."""
        return getattr(self.recipe.train, self.stage)


def train(
    session: Session,
    directory: Path,
    resume: bool = False,
    progress: Progress | None = None,
    evaluate: Evaluate | None = None,
) -> Run:
    """Train every stage of the recipe; writes checkpoints, logs and the final model into `directory`.

    Raises TrainingError when a loss is not finite, CheckpointError when a checkpoint cannot be read or written.
    """
    run = _start(session, directory, progress or Progress())
    if resume:
        saving.resume(run)
    elif saving.has_progress(directory):
        raise TrainingError(f"{directory} already holds a run: add --resume to go on, or give another --output.")
    saving.write_recipe(run)
    error: BaseException | None = None
    run.host.train_start(run)
    try:
        for stage in run.recipe.train.stages:
            if stage not in run.finished:
                _train_stage(run, stage, evaluate)
        saving.save_final(run)
    except BaseException as caught:
        error = caught
        raise
    finally:
        run.host.train_end(run, error)
        run.accelerator.end_training()
    return run


def _start(session: Session, directory: Path, progress: Progress) -> Run:
    recipe = session.recipe
    accelerator = Accelerator(
        mixed_precision=recipe.train.precision,
        log_with=list(recipe.train.trackers) or None,
        project_dir=str(directory),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=len(recipe.tasks) > 1)],
    )
    directory.mkdir(parents=True, exist_ok=True)
    if recipe.train.trackers:
        accelerator.init_trackers("cynosure", config={"recipe": recipe.to_yaml()})
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, session.host).to(accelerator.device)
    return Run(session, model, directory, accelerator, progress if accelerator.is_main_process else Progress())


def _train_stage(run: Run, stage: Stage, evaluate: Evaluate | None) -> None:
    if run.stage != stage:
        run.stage, run.step = stage, 0
    settings = run.settings
    if settings.steps > 0:
        data = stage_data(run)
        prepare_stage(run, data)
        _Loop(run, data, evaluate).run_steps()
    run.finished.add(stage)
    run.step = settings.steps
    if settings.steps > 0:
        saving.save_checkpoint(run, None, None)


class _Loop:
    """The steps of one stage."""

    def __init__(self, run: Run, data: dict[str, TaskData], evaluate: Evaluate | None) -> None:
        self.run, self.data, self.evaluate = run, data, evaluate
        recipe, settings = run.recipe, run.settings
        run.model.set_stage(run.stage)
        optimizer = run.host.build_optimizer(run)
        if optimizer is None:
            raise TrainingError(
                f"no enabled plugin builds the optimizer '{settings.optimizer}': set train.{run.stage}.optimizer to "
                "adamw or muon, or enable the plugin that has it."
            )
        wrapped = torch.compile(run.model) if recipe.train.compile else run.model
        self.wrapped: nn.Module
        self.wrapped, self.optimizer = run.accelerator.prepare(wrapped, optimizer)
        self.average = Average(self._learning(), settings.ema) if settings.ema else None
        saving.restore_optimizer(run, self.optimizer, self.average)
        weights = {task: recipe.tasks[task].weight for task in data}
        sizes = {task: 1 if d.streams else len(d) for task, d in data.items()}
        self.mixture = Mixture(mixture_weights(weights, sizes, recipe.mixing.by, recipe.mixing.temperature))
        self.logs = Logs(run)

    def _learning(self) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in self.run.model.named_parameters() if p.requires_grad]

    def run_steps(self) -> None:
        run, settings = self.run, self.run.settings
        accumulate = settings.accumulate
        stream = iter(
            micro_batches(
                self.data,
                self.mixture,
                run.step * accumulate,
                settings.steps * accumulate,
                run.accelerator.process_index,
                run.accelerator.num_processes,
                run.recipe.train.workers,
            )
        )
        with run.progress.bar(f"stage {run.stage}", settings.steps, run.step) as bar:
            try:
                while run.step < settings.steps:
                    self._step([next(stream) for _ in range(accumulate)], bar)
            except KeyboardInterrupt:
                saving.save_checkpoint(run, self.optimizer, self.average)
                raise TrainingError(
                    f"stopped by you at step {run.step} of stage {run.stage}; the same command with --resume goes on."
                ) from None
        if self.average is not None:
            self.average.copy_to(self._learning())

    def _step(self, batches: list[Batch], bar: Bar) -> None:
        run, settings = self.run, self.run.settings
        lr = learning_rate(run.step, settings.steps, settings.lr, settings.warmup, settings.final_lr)
        set_learning_rate(self.optimizer, lr)
        outputs = [self._micro_step(batch, i, len(batches)) for i, batch in enumerate(batches)]
        norm = self._clip(settings.clip)
        self._check_finite(batches, outputs, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        run.step += 1
        if self.average is not None:
            self.average.update(self._learning(), run.step)
        note = self.logs.add(batches, outputs, lr, norm)
        bar.advance(1, note)
        self._periodic()

    def _micro_step(self, batch: Batch, index: int, count: int) -> StepOutput:
        run = self.run
        micro_step = run.step * count + index
        # Seeding here makes dropout a function of the step alone, so a resumed run repeats it bit for bit.
        torch.manual_seed(_seed(run.recipe.seed, run.stage, micro_step, run.accelerator.process_index))
        batch = batch.to(run.accelerator.device)
        synchronise = index == count - 1
        with run.accelerator.autocast(), _maybe_no_sync(run.accelerator, self.wrapped, synchronise):
            output = run.host.training_step(run, batch)
            if output is None:
                output = self.wrapped(batch, run.stage)
            run.accelerator.backward(output.loss / count)
        return StepOutput(output.loss.detach(), output.logs)

    def _clip(self, clip: float | None) -> torch.Tensor:
        parameters = [p for _, p in self._learning()]
        norm = self.run.accelerator.clip_grad_norm_(parameters, clip or math.inf)
        return torch.as_tensor(0.0) if norm is None else norm

    def _check_finite(self, batches: list[Batch], outputs: list[StepOutput], norm: torch.Tensor) -> None:
        losses = torch.stack([o.loss.float() for o in outputs])
        values = self.run.accelerator.reduce(torch.cat([losses, norm.float().to(losses.device)[None]]), "sum").tolist()
        # fp16 scaling skips steps with an infinite gradient by itself; a loss that is not finite is never right.
        if self.run.recipe.train.precision == "fp16":
            values = values[:-1]
        if all(math.isfinite(v) for v in values):
            return
        tasks = {b.task for b, v in zip(batches, values, strict=False) if not math.isfinite(v)} or {"all tasks"}
        raise TrainingError(
            f"the loss of {', '.join(sorted(tasks))} is not finite at step {self.run.step} of stage {self.run.stage}; "
            f"last good checkpoint: {saving.newest(self.run.directory) or 'none yet'}. "
            f"Lower train.{self.run.stage}.lr or check the data, then --resume."
        )

    def _periodic(self) -> None:
        run, train_settings = self.run, self.run.recipe.train
        last = run.step == run.settings.steps
        if train_settings.save_every and run.step % train_settings.save_every == 0 and not last:
            saving.save_checkpoint(run, self.optimizer, self.average)
        if self.evaluate and train_settings.eval_every and run.step % train_settings.eval_every == 0:
            run.model.set_stage(None)
            self.logs.write(dict(self.evaluate(run)))
            run.model.set_stage(run.stage)


def _maybe_no_sync(accelerator: Accelerator, module: nn.Module, synchronise: bool) -> Any:
    from contextlib import nullcontext

    return nullcontext() if synchronise else accelerator.no_sync(module)


def _seed(seed: int, stage: str, micro_step: int, rank: int) -> int:
    """A 63-bit mix of all that tells one micro-step of one rank from another."""
    value = seed
    for part in (("codes", "prior", "refit").index(stage), micro_step, rank):
        value = (value * 6364136223846793005 + 1442695040888963407 + part) % (1 << 63)
    return value
