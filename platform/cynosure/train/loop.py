"""The training loop of every stage. accelerate owns devices, precision, ranks and trackers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from cynosure.build import Session, build_model
from cynosure.core.guided import GuidedModel, Stage
from cynosure.core.initial import initial_weights
from cynosure.core.records import Batch, StepOutput
from cynosure.data.loading import TaskData, micro_batches
from cynosure.errors import TrainingError, unknown
from cynosure.progress import Progress
from cynosure.train import saving
from cynosure.train.compute import compile_blocks, recompute_blocks
from cynosure.train.inherit import inherit
from cynosure.train.interrupt import Stopped, StopSignal
from cynosure.train.logs import Logs, LossNote, evaluation_note, write_warning
from cynosure.train.schedule import Average, learning_rate, set_learning_rate
from cynosure.train.sharding import clip_gradients, gathered, prepare, shard
from cynosure.train.stages import check_data, micro_batches_per_step, prepare_stage, stage_data, stage_mixture
from cynosure.train.start import make_accelerator

Evaluate = Callable[["Run"], Mapping[str, float]]


@dataclass
class Run:
    """A training run, as hooks see it. `step` counts the finished optimizer steps of `stage`; `taken` are the names of
    the weights that it began with."""

    session: Session
    model: GuidedModel
    directory: Path
    accelerator: Accelerator
    progress: Progress
    stage: Stage = "codes"
    step: int = 0
    finished: set[str] = field(default_factory=set)
    wrapped: nn.Module | None = None
    taken: frozenset[str] = frozenset()

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

    @property
    def accumulate(self) -> int:
        """Micro-batches of one process in an optimizer step of the present stage."""
        return micro_batches_per_step(self.recipe, self.stage, self.accelerator.num_processes)

    @property
    def total_step(self) -> int:
        """`step` after those of all earlier stages."""
        stages = self.recipe.train.stages
        return self.step + sum(getattr(self.recipe.train, s).steps for s in stages[: stages.index(self.stage)])

    def forward(self, batch: Batch) -> StepOutput:
        """The model's own training step, with gradients shared among processes; a hook may add to its loss."""
        assert self.wrapped is not None
        output: StepOutput = self.wrapped(batch, self.stage)
        return output

    def warn(self, text: str) -> None:
        """Tell the user one sentence now, and keep it in the log."""
        self.progress.say(f"warning: {text}")
        write_warning(self, text)


def train(
    session: Session,
    directory: Path,
    resume: bool = False,
    progress: Progress | None = None,
    evaluate: Evaluate | None = None,
) -> Run:
    """Train every stage of the recipe; writes checkpoints, logs and the final model into `directory`.

    An interrupt or termination ends the step in progress, saves, and raises `Stopped`; a resumed run then gives bit for
    bit the model of one that never stopped (on CPU, with as many processes).

    Raises TrainingError when a loss is not finite, CheckpointError when a checkpoint cannot be read or written.
    """
    if not resume and saving.has_progress(directory):
        raise TrainingError(f"{directory} already holds a run: add --resume to go on, or give another --output.")
    run = _start(session, directory, resume, progress or Progress())
    error: BaseException | None = None
    try:
        check_data(run)
        if resume:
            saving.resume(run)
        inherit(run)
        _check_optimizers(run)
        shard(run.model)
        saving.prepare_folder(run)
        run.host.train_start(run)
        for stage in run.recipe.train.stages:
            if stage not in run.finished:
                _train_stage(run, stage, evaluate)
        saving.save_final(run)
    except KeyboardInterrupt:
        error = _stopped(run)
        raise error from None
    except BaseException as caught:
        error = caught
        raise
    finally:
        run.host.train_end(run, error)
        run.accelerator.end_training()
    return run


def _start(session: Session, directory: Path, resume: bool, progress: Progress) -> Run:
    accelerator = make_accelerator(session.recipe, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{directory} cannot be made a folder ({error.strerror}): give another one with --output."
        ) from error
    with initial_weights(not (resume and saving.newest(directory))):
        model = build_model(session.recipe, session.host).to(accelerator.device)
    if session.recipe.train.compile:
        compile_blocks(model)
    if session.recipe.train.checkpointing:
        recompute_blocks(model)
    return Run(session, model, directory, accelerator, progress if accelerator.is_main_process else Progress())


def _stopped(run: Run) -> Stopped:
    saved = saving.newest(run.directory)
    keeps = f"{saved.name} is saved" if saved else "nothing is saved yet"
    return Stopped(f"stopped by you in stage {run.stage} after step {run.step}, {keeps}: --resume goes on.")


def _train_stage(run: Run, stage: Stage, evaluate: Evaluate | None) -> None:
    if run.stage != stage:
        run.stage, run.step = stage, 0
    if run.settings.steps == 0:
        run.finished.add(stage)
        return
    data = stage_data(run)
    prepare_stage(run, data)
    with StopSignal(notice=run.main) as stop:
        _Loop(run, data, evaluate, stop).run_steps()
        run.finished.add(stage)
        saving.save_stage(run)


class _Loop:
    """The steps of one stage."""

    def __init__(self, run: Run, data: dict[str, TaskData], evaluate: Evaluate | None, stop: StopSignal) -> None:
        self.run, self.data, self.evaluate, self.stop = run, data, evaluate, stop
        run.model.set_stage(run.stage)
        self.learning = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
        self.parameters = list(self.learning.values())
        run.wrapped, self.optimizer = prepare(run.accelerator, run.model, build_optimizer(run))
        self.average = Average(self.learning, run.settings.ema) if run.settings.ema else None
        self.mixture = stage_mixture(run, data)
        self.logs, self.note = Logs(run), LossNote()
        if told := saving.restore_step(run, self.optimizer, self.average):
            self.logs.restore(told)
        run.host.stage_start(run, data, self.mixture)

    def run_steps(self) -> None:
        run, settings, accelerator = self.run, self.run.settings, self.run.accelerator
        count = run.accumulate
        first, last = run.step * count, settings.steps * count
        rank, world, workers = accelerator.process_index, accelerator.num_processes, run.recipe.train.workers
        stream = micro_batches(self.data, self.mixture, first, last, rank, world, workers)
        with run.progress.bar(f"stage {run.stage}", settings.steps, run.step) as bar:
            while run.step < settings.steps:
                note, stopping = self._step([next(stream) for _ in range(count)])
                bar.advance(1, note)
                self._periodic()
                if stopping and run.step < settings.steps:
                    self._save()
                    raise _stopped(run)
        if self.average:
            self.average.copy_to_model()
        accelerator.unwrap_model(run.wrapped, keep_fp32_wrapper=False)
        accelerator.free_memory()

    def _step(self, batches: Sequence[Batch]) -> tuple[str, bool]:
        """One optimizer step; returns the losses in words, and whether any process was told to stop."""
        run, settings = self.run, self.run.settings
        lr = learning_rate(run.step, settings.steps, settings.lr, settings.warmup, settings.final_lr)
        set_learning_rate(self.optimizer, lr)
        outputs = [self._micro_step(batch, i, len(batches)) for i, batch in enumerate(batches)]
        run.accelerator.unscale_gradients()
        norm = clip_gradients(self.parameters, settings.clip or math.inf)
        *losses, gradient, stopping = self._shared(outputs, norm)
        self._require_finite(batches, losses, gradient)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        run.model.end_step()
        run.step += 1
        if self.average and not self.optimizer.step_was_skipped:
            self.average.update(run.step)
        self.logs.add(batches, outputs, lr, norm)
        world = run.accelerator.num_processes
        return self.note.add({b.task: loss / world for b, loss in zip(batches, losses, strict=True)}), stopping > 0

    def _micro_step(self, batch: Batch, index: int, count: int) -> StepOutput:
        run, accelerator = self.run, self.run.accelerator
        # Seeding here makes dropout a function of the step alone, so a resumed run repeats it bit for bit.
        seed = _seed(run.recipe.seed, run.stage, run.step * count + index, accelerator.process_index)
        # torch.manual_seed also records a stack trace for the CUDA that may come: a millisecond on every CPU step.
        (torch.default_generator if accelerator.device.type == "cpu" else torch).manual_seed(seed)
        batch = batch.to(accelerator.device)
        waits = index < count - 1
        try:
            with accelerator.autocast(), accelerator.no_sync(run.wrapped) if waits else nullcontext():
                output = run.host.training_step(run, batch)
                if not output.loss.requires_grad:
                    raise TrainingError(f"all that the task uses is frozen: set tasks.{batch.task}.weight to 0.")
                accelerator.backward(output.loss / count)
        except TrainingError as error:
            raise TrainingError(f"task {batch.task}, step {run.step + 1} of stage {run.stage}: {error}") from error
        return StepOutput(output.loss.detach(), output.logs)

    def _shared(self, outputs: Sequence[StepOutput], norm: torch.Tensor) -> list[float]:
        """Losses, gradient norm and wish to stop, summed over the processes: the one wait for the device in a step."""
        values = [*(o.loss for o in outputs), norm, torch.tensor(float(self.stop.requested))]
        device = self.run.accelerator.device
        shared = torch.stack([v.to(device, torch.float32, non_blocking=True) for v in values])
        return self.run.accelerator.reduce(shared, "sum").tolist()

    def _require_finite(self, batches: Sequence[Batch], losses: Sequence[float], gradient: float) -> None:
        bad = sorted({b.task for b, loss in zip(batches, losses, strict=True) if not math.isfinite(loss)})
        # fp16 scaling meets infinite gradients now and then, and skips their steps by itself.
        if not bad and (math.isfinite(gradient) or self.run.recipe.train.precision == "fp16"):
            return
        run = self.run
        what = (
            f"the loss of {', '.join(bad)}"
            if bad
            else f"the gradient of {', '.join(sorted({b.task for b in batches}))}"
        )
        raise TrainingError(
            f"{what} is not finite at step {run.step + 1} of stage {run.stage}; last good checkpoint: "
            f"{saving.newest(run.directory) or 'none yet'}. Repair the data and --resume, or begin anew with a lower "
            f"train.{run.stage}.lr."
        )

    def _periodic(self) -> None:
        run, settings = self.run, self.run.recipe.train
        if self.evaluate and settings.eval_every and run.step % settings.eval_every == 0:
            with self.average.applied() if self.average else nullcontext(), gathered(run.model):
                found = dict(self.evaluate(run))
            self.logs.write(found)
            run.progress.say(f"stage {run.stage}, step {run.step}: {evaluation_note(found)}")
            run.model.set_stage(run.stage)
        if run.step % settings.save_every == 0 and run.step < run.settings.steps:
            self._save()

    def _save(self) -> None:
        saving.save_step(self.run, self.optimizer, self.average, self.logs.state())


def _check_optimizers(run: Run) -> None:
    """Find out before hours of one stage what the optimizer of a later one would stumble over."""
    for stage in run.recipe.train.stages:
        later = replace(run, stage=stage)
        if later.settings.steps:
            run.model.set_stage(stage)
            build_optimizer(later)


def build_optimizer(run: Run) -> torch.optim.Optimizer:
    """The optimizer of the run's stage, from a plugin; raises TrainingError when none answers or nothing learns."""
    if not any(p.requires_grad for p in run.model.parameters()):
        raise TrainingError(f"all that stage {run.stage} trains is frozen: take it out of train.stages.")
    optimizer = run.host.build_optimizer(run)
    if optimizer is None:
        known = [p.name for p in run.host.plugins if "cynosure_build_optimizer" in p.hooks]
        raise TrainingError(f"train.{run.stage}.optimizer: {unknown('optimizer', run.settings.optimizer, known)}.")
    return optimizer


def _seed(seed: int, stage: str, micro_step: int, rank: int) -> int:
    """A 63-bit mix of all that tells one micro-step of one rank from another."""
    value = seed
    for part in (("codes", "prior", "refit").index(stage), micro_step, rank):
        value = (value * 6364136223846793005 + 1442695040888963407 + part) % (1 << 63)
    return value
