"""Training from recipe to model: what a run leaves behind, and what becomes of it when something goes wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import Messages, Project, log, same, weights

import cynosure
from cynosure.errors import CheckpointError, CynosureError, DataError, TrainingError
from cynosure.train import checkpoint as files
from cynosure.train.interrupt import Stopped
from cynosure.train.loop import Run

KILLS = """
import os, signal
from cynosure import hookimpl

@hookimpl
def cynosure_training_step(run, batch):
    if os.environ.get("KILL_AT") == f"{run.stage} {run.step}":
        os.kill(os.getpid(), signal.SIGKILL)
"""

INTERRUPTS = """
import os, signal
from cynosure import hookimpl

@hookimpl
def cynosure_training_step(run, batch):
    if (run.stage, run.step) == ("prior", 2) and not hasattr(run, "interrupted"):
        run.interrupted = True
        os.kill(os.getpid(), signal.SIGINT)
"""

NOT_FINITE = """
import torch
from cynosure import hookimpl
from cynosure.core.records import StepOutput

@hookimpl
def cynosure_training_step(run, batch):
    if (run.stage, run.step, batch.task) == ("codes", 3, "depth"):
        return StepOutput(run.forward(batch).loss * float("nan"), {})
"""

SGD = """
import torch
from cynosure import hookimpl

@hookimpl
def cynosure_build_optimizer(run):
    if run.settings.optimizer == "sgd":
        return torch.optim.SGD([p for p in run.model.parameters() if p.requires_grad], lr=run.settings.lr)
"""

CODES_ONLY = ("train.stages=[codes]", "train.prior.steps=0")
NO_CODES = ("model.prior=null", "model.tokenizer=null", "train.stages=[codes]", "tasks.colorization=null")


def resumed_from(finished: Path, checkpoint: str, project: Project) -> Path:
    """A copy of a finished run as it was when `checkpoint` had just been written."""
    run = project.folder / "resumed"
    shutil.copytree(finished, run)
    (run / files.MODEL).unlink()
    for later in [p for p in (run / "checkpoints").iterdir() if p.name > checkpoint]:
        shutil.rmtree(later)
    return run


# --- what a run leaves behind


def test_a_run_leaves_its_model_recipe_log_and_checkpoints(finished_run: Path) -> None:
    model = cynosure.load(finished_run)
    assert sorted(model.tasks) == ["colorization", "depth"]
    lines = log(finished_run)
    assert [(line["stage"], line["step"]) for line in lines] == [
        (stage, step) for stage, steps in (("codes", (3, 5)), ("prior", (3, 5)), ("refit", (3, 4))) for step in steps
    ]
    assert all(line["depth/loss"] > 0 and line["gradient_norm"] > 0 for line in lines)
    assert not list(finished_run.rglob("*.part"))


def test_the_same_run_twice_gives_the_same_model(finished_run: Path, project: Project) -> None:
    project.train("again")
    assert same(weights(finished_run), weights(project.folder / "again"))
    assert log(finished_run) == log(project.folder / "again")


def test_the_recipe_of_a_run_trains_it_again(finished_run: Path, project: Project) -> None:
    shutil.copy(finished_run / "recipe.yaml", project.recipe)
    project.train("again")
    assert same(weights(finished_run), weights(project.folder / "again"))


def test_worker_processes_change_nothing(finished_run: Path, project: Project) -> None:
    project.train("run", "train.workers=2")
    assert same(weights(finished_run), weights(project.folder / "run"))


def test_only_the_newest_checkpoints_stay(project: Project) -> None:
    project.train("run", "train.keep=2", *CODES_ONLY)
    assert sorted(p.name for p in (project.folder / "run/checkpoints").iterdir()) == [
        "0-codes-00000004",
        "0-codes-00000005",
    ]


# --- stages


def part(run: Path, checkpoint: str, name: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in weights(run / "checkpoints" / checkpoint).items() if k.startswith(name)}


@pytest.mark.parametrize(
    ("before", "after", "learns"),
    [("0-codes-00000005", "1-prior-00000005", "prior."), ("1-prior-00000005", "2-refit-00000004", "base.")],
)
def test_a_stage_changes_its_part_only(finished_run: Path, before: str, after: str, learns: str) -> None:
    """Buffers count too: the codebook's totals and the running statistics must stand still."""
    for name in ("base.", "tokenizer.", "prior."):
        unchanged = same(part(finished_run, before, name), part(finished_run, after, name))
        assert unchanged == (name != learns), f"{name} in the stage between {before} and {after}"


def test_stage_codes_moves_the_codebook(finished_run: Path) -> None:
    early, late = (part(finished_run, c, "tokenizer.quantizer") for c in ("0-codes-00000002", "0-codes-00000005"))
    assert not torch.equal(early["tokenizer.quantizer.sums"], late["tokenizer.quantizer.sums"])
    assert int(late["tokenizer.quantizer.step"]) == 10, "the codebook learns once a micro-batch"


def test_the_prior_starts_from_the_base(project: Project) -> None:
    """Steps too small to move anything show the start."""
    project.train("run", "train.stages=[codes,prior]", "train.prior.lr=1e-30", "train.prior.weight_decay=0")
    final = weights(project.folder / "run")
    learnt = {k.removeprefix("base."): v for k, v in final.items() if k.startswith("base.trunk.")}
    assert learnt and all(torch.equal(final[f"prior.encoder.{k}"], v) for k, v in learnt.items())


def test_without_warm_start_the_prior_has_an_encoder_of_its_own(project: Project) -> None:
    project.train(
        "run",
        "train.stages=[codes,prior]",
        "train.prior.steps=1",
        "train.prior.lr=1e-30",
        "train.prior.warm_start=false",
    )
    final = weights(project.folder / "run")
    name = "trunk.stem_half.weight"
    assert not torch.equal(final[f"prior.encoder.{name}"], final[f"base.{name}"])


def test_a_stage_of_no_steps_is_passed_over(project: Project) -> None:
    project.train("run", "train.prior.steps=0")
    assert [line["stage"] for line in log(project.folder / "run")] == ["codes", "codes", "refit", "refit"]


def test_a_run_of_no_steps_gives_the_untrained_model(project: Project) -> None:
    run = project.train("run", "train.codes.steps=0", "train.prior.steps=0", "train.refit.steps=0")
    assert same(weights(project.folder / "run"), run.model.state_dict())
    cynosure.load(project.folder / "run")


def test_refit_can_leave_tasks_out(project: Project) -> None:
    project.train("run", "train.codes.steps=1", "train.prior.steps=1", "train.refit.tasks=[depth]", "train.log_every=1")
    line = log(project.folder / "run")[-1]
    assert line["stage"] == "refit" and "depth/loss" in line and "colorization/loss" not in line


def test_a_model_without_codes_trains(project: Project) -> None:
    project.train("run", *NO_CODES)
    assert not any(k.startswith(("tokenizer", "prior")) for k in weights(project.folder / "run"))


# --- how steps are made


def test_accumulation_equals_the_large_batch(project: Project) -> None:
    sgd = ("train.codes.optimizer=sgd", "train.codes.ema=0", "train.codes.clip=0", "train.codes.lr=0.1")
    project.plugin("sgd", SGD)
    one = ("model.prior=null", "model.tokenizer=null", "train.stages=[codes]", "tasks.depth=null")
    project.train("small", *one, *sgd, "train.codes.accumulate=4", "tasks.colorization.batch_size=2")
    project.train("large", *one, *sgd, "train.codes.accumulate=1", "tasks.colorization.batch_size=8")
    small, large = weights(project.folder / "small"), weights(project.folder / "large")
    assert all(torch.allclose(small[k], large[k], atol=1e-6) for k in small)


def test_clipping_bounds_the_step(project: Project) -> None:
    project.plugin("sgd", SGD)
    one = (
        "train.codes.optimizer=sgd",
        "train.codes.ema=0",
        "train.codes.steps=1",
        "train.codes.lr=1",
        "train.codes.warmup=0",
    )
    start = project.train("start", *NO_CODES, "train.codes.steps=0").model.state_dict()
    moved = {}
    for clip in (0, 0.01):
        project.train(f"clip{clip}", *NO_CODES, *one, f"train.codes.clip={clip}")
        final = weights(project.folder / f"clip{clip}")
        moved[clip] = float(sum((final[k] - start[k]).square().sum() for k in start) ** 0.5)
        norm = log(project.folder / f"clip{clip}")[-1]["gradient_norm"]
    assert norm > 0.02, "this test needs a gradient worth clipping"
    assert moved[0] == pytest.approx(norm, rel=1e-3), "clip: 0 must not clip"
    assert moved[0.01] == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_trains_and_codebooks_stay_float32(project: Project) -> None:
    project.train("run", "train.precision=bf16")
    final = weights(project.folder / "run")
    assert all(v.isfinite().all() and v.dtype != torch.bfloat16 for v in final.values())
    project.train("plain", "train.precision=no")
    assert not same(final, weights(project.folder / "plain")), "bf16 made no difference"


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works here")
def test_fp16_without_a_gpu_is_one_sentence(project: Project) -> None:
    with pytest.raises(TrainingError, match="set it to bf16 or no"):
        project.train("run", "train.precision=fp16")


def test_an_unknown_optimizer_is_named(project: Project) -> None:
    with pytest.raises(TrainingError, match=r"train.codes.optimizer: .*'adamv'.* did you mean 'adamw'"):
        project.train("run", "train.codes.optimizer=adamv")


def test_a_hook_can_change_the_training_step(project: Project) -> None:
    project.plugin("twice", """
from dataclasses import replace
from cynosure import hookimpl

@hookimpl
def cynosure_training_step(run, batch):
    output = run.forward(batch)
    return replace(output, loss=2 * output.loss, logs={"doubled": 2.0})
""")  # fmt: skip
    project.train("run", *CODES_ONLY)
    line = log(project.folder / "run")[-1]
    assert line["depth/doubled"] == 2 and "depth/depth" not in line


def test_transforms_of_plugins_reach_training(project: Project) -> None:
    project.plugin("black", """
from dataclasses import replace
from cynosure import hookimpl

@hookimpl
def cynosure_transforms(task, split):
    if (task.name, split) == ("depth", "train"):
        return lambda example, rng: replace(example, inputs={"image": 0 * example.inputs["image"]})

@hookimpl
def cynosure_training_step(run, batch):
    assert (float(batch.inputs["image"].abs().max()) == 0) == (batch.task == "depth")
""")  # fmt: skip
    project.train("run", *CODES_ONLY)


# --- averaged weights


def test_the_model_of_a_checkpoint_has_the_averaged_weights(finished_run: Path) -> None:
    checkpoint = finished_run / "checkpoints/0-codes-00000004"
    trained, _ = files.read_tensors(checkpoint / files.WEIGHTS)
    averaged = weights(checkpoint)
    assert any(not torch.equal(trained[k], averaged[k]) for k in trained)
    assert all(k.startswith(("base.", "tokenizer.")) for k in trained)


def test_evaluation_in_training_sees_the_averaged_weights(project: Project, finished_run: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def evaluate(run: Run) -> dict[str, float]:
        if run.stage == "codes":
            seen[run.step] = {k: v.clone() for k, v in run.model.state_dict().items()}
        return {"eval/answer": 42.0}

    project.train("run", "train.eval_every=2", evaluate=evaluate)
    assert sorted(seen) == [2, 4]
    assert same(seen[4], weights(finished_run / "checkpoints/0-codes-00000004"))
    assert same(weights(project.folder / "run"), weights(finished_run)), "evaluating changed the training"
    assert sum("eval/answer" in line for line in log(project.folder / "run")) == 6


def test_evaluation_is_off_by_default(project: Project) -> None:
    project.train("run", *CODES_ONLY, evaluate=lambda run: pytest.fail("evaluated"))


# --- going on after a kill


def test_a_killed_run_resumes_bit_for_bit(project: Project, finished_run: Path) -> None:
    project.plugin("kills", KILLS)
    arguments = ("train", "recipe.yaml", "-o", "run")
    for kill, more in (("codes 3", ()), ("prior 4", ("--resume",))):
        done = project.command(*arguments, *more, KILL_AT=kill)
        assert done.returncode == -9, done.stderr
        assert not (project.folder / "run" / files.MODEL).exists()
    messages = Messages()
    project.train("run", resume=True, progress=messages)
    assert "going on from 1-prior-00000004." in messages.said
    assert same(weights(project.folder / "run"), weights(finished_run))
    assert log(project.folder / "run") == log(finished_run), "the log must be that of a run that never stopped"


IN_AND_BETWEEN_STAGES = (
    "0-codes-00000002",
    "0-codes-00000005",
    "1-prior-00000002",
    "2-refit-00000002",
    "2-refit-00000004",
)


@pytest.mark.parametrize("checkpoint", IN_AND_BETWEEN_STAGES)
def test_every_checkpoint_leads_to_the_same_model(project: Project, finished_run: Path, checkpoint: str) -> None:
    run = resumed_from(finished_run, checkpoint, project)
    project.train(run, resume=True)
    assert same(weights(run), weights(finished_run))
    assert log(run) == log(finished_run)


def test_resuming_a_finished_run_changes_nothing(project: Project, finished_run: Path) -> None:
    shutil.copytree(finished_run, project.folder / "run")
    project.train("run", resume=True)
    assert same(weights(project.folder / "run"), weights(finished_run))
    assert log(project.folder / "run") == log(finished_run)


def test_an_interrupt_saves_and_says_how_to_go_on(project: Project, finished_run: Path) -> None:
    project.plugin("interrupts", INTERRUPTS)
    with pytest.raises(
        Stopped, match="stopped by you in stage prior after step 3, 1-prior-00000003 is saved: --resume"
    ):
        project.train("run")
    project.plugin("interrupts", "from cynosure import hookimpl\n@hookimpl\ndef cynosure_train_start(run): ...\n")
    project.train("run", resume=True)
    assert same(weights(project.folder / "run"), weights(finished_run))
    assert log(project.folder / "run") == log(finished_run)


def test_an_interrupt_outside_of_steps_is_one_sentence(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cynosure.train.loop.prepare_stage", interrupted)
    with pytest.raises(Stopped, match="nothing is saved yet"):
        project.train("run")


def test_the_interrupt_handler_is_gone_afterwards(project: Project) -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    project.train("run", *CODES_ONLY)
    assert signal.getsignal(signal.SIGINT) is before


# --- refusing what would go wrong


def test_an_existing_run_is_not_overwritten(project: Project, finished_run: Path) -> None:
    shutil.copytree(finished_run, project.folder / "run")
    with pytest.raises(TrainingError, match="already holds a run: add --resume"):
        project.train("run")


def test_resuming_nothing_begins(project: Project, finished_run: Path) -> None:
    (project.folder / "run").mkdir()
    (project.folder / "run/log.jsonl").write_text('{"stage": "codes", "step": 3, "of": "an attempt before"}\n')
    project.train("run", resume=True)
    assert same(weights(project.folder / "run"), weights(finished_run))
    assert log(project.folder / "run") == log(finished_run)


def test_resuming_with_another_recipe_names_what_differs(project: Project, finished_run: Path) -> None:
    run = resumed_from(finished_run, "0-codes-00000002", project)
    with pytest.raises(CheckpointError, match=r"another recipe \(train.codes.lr differ\)"):
        project.train(run, "train.codes.lr=1e-3", resume=True)


def test_settings_around_training_may_change_on_resume(project: Project, finished_run: Path) -> None:
    run = resumed_from(finished_run, "1-prior-00000002", project)
    free = ("train.save_every=1", "train.log_every=1", "train.keep=1", "train.workers=1", "eval.limit=2")
    project.train(run, *free, resume=True)
    assert same(weights(run), weights(finished_run))


@pytest.mark.parametrize("file", [files.MODEL, files.OPTIMIZER, files.WEIGHTS, files.STATE])
def test_a_damaged_checkpoint_is_named(project: Project, finished_run: Path, file: str) -> None:
    run = resumed_from(finished_run, "0-codes-00000004", project)
    damaged = run / "checkpoints/0-codes-00000004" / file
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=f"{file}.*0-codes-00000004"):
        project.train(run, resume=True)


def test_without_its_damaged_checkpoint_a_run_goes_on_from_the_one_before(project: Project, finished_run: Path) -> None:
    run = resumed_from(finished_run, "0-codes-00000004", project)
    shutil.rmtree(run / "checkpoints/0-codes-00000004")
    project.train(run, resume=True)
    assert same(weights(run), weights(finished_run))


def test_a_checkpoint_of_other_parts_is_refused(project: Project, finished_run: Path) -> None:
    run = resumed_from(finished_run, "0-codes-00000004", project)
    file = run / "checkpoints/0-codes-00000004" / files.MODEL
    tensors, told = files.read_tensors(file)
    files.write_tensors(file, {k: v for k, v in tensors.items() if k != "base.code_stem.bias"}, told)
    with pytest.raises(CheckpointError, match=r"1 missing \(base.code_stem.bias\)"):
        project.train(run, resume=True)


def test_a_full_disk_keeps_the_checkpoint_before(
    project: Project, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "0-codes-00000004":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*free some space, then --resume"):
        project.train("run")
    run = project.folder / "run"
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["0-codes-00000002"], "a half-written one is left"
    monkeypatch.undo()
    project.train("run", resume=True)
    assert same(weights(run), weights(finished_run))


def test_what_a_kill_in_the_middle_of_a_save_leaves_is_ignored_and_removed(
    project: Project, finished_run: Path
) -> None:
    run = resumed_from(finished_run, "0-codes-00000002", project)
    left = run / "checkpoints/.0-codes-00000004.123.part"
    shutil.copytree(run / "checkpoints/0-codes-00000002", left)
    (run / ".model.safetensors.123.part").write_bytes(b"half")
    project.train(run, resume=True)
    assert same(weights(run), weights(finished_run))
    assert not list(run.rglob("*.part"))


def test_a_loss_that_is_not_finite_stops_the_run(project: Project, finished_run: Path) -> None:
    project.plugin("not_finite", NOT_FINITE)
    with pytest.raises(TrainingError) as caught:
        project.train("run")
    message = str(caught.value)
    assert "loss of depth is not finite at step 4 of stage codes" in message and "0-codes-00000002" in message
    good = "checkpoints/0-codes-00000002"
    assert same(weights(project.folder / "run" / good), weights(finished_run / good))


def test_an_error_of_a_part_names_task_and_step(project: Project) -> None:
    project.plugin("fails", """
from cynosure import hookimpl
from cynosure.errors import TrainingError

@hookimpl
def cynosure_training_step(run, batch):
    if run.step == 1:
        raise TrainingError("the codes are out of tune.")
""")  # fmt: skip
    with pytest.raises(TrainingError, match="task depth, step 2 of stage codes: the codes are out of tune"):
        project.train("run")


def test_hooks_hear_of_the_end(project: Project) -> None:
    project.plugin("ends", """
import pathlib
from cynosure import hookimpl
from cynosure.errors import TrainingError

@hookimpl
def cynosure_train_start(run):
    raise TrainingError("no")

@hookimpl
def cynosure_train_end(run, error):
    (run.directory / "end").write_text(repr(error))
""")  # fmt: skip
    with pytest.raises(TrainingError):
        project.train("run")
    assert (project.folder / "run/end").read_text() == "TrainingError('no')"


# --- data


def rows(code: str) -> str:
    """A plugin with a dataset `toy` whose training rows are what `code` says."""
    return f"""
import numpy as np
from cynosure import hookimpl
from cynosure.core.contracts import Dataset, DatasetInfo, PartConfig

def row(i):
    rng = np.random.default_rng(i)
    depth = rng.uniform(1, 9, (16, 16)).astype(np.float32)
    return {{"image": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), "depth": depth}}

class Stream:
    def __iter__(self):
        return (row(i) for i in range(7))

class Toy(Dataset):
    class Config(PartConfig):
        pass
    def __init__(self, config):
        pass
    info = DatasetInfo(name="toy", fields=("image", "depth"))
    def rows(self, split):
        return {code}

@hookimpl
def cynosure_register(register):
    register.dataset("toy", Toy)
"""


def test_an_empty_dataset_is_one_sentence(project: Project) -> None:
    project.plugin("toy", rows("[]"))
    with pytest.raises(DataError, match="task depth has nothing to learn from: dataset scenes holds no training row"):
        project.train("run", "data.scenes={name: toy}")


def test_a_batch_larger_than_the_data_repeats_rows_and_says_so_once(project: Project) -> None:
    messages = Messages()
    project.train("run", "tasks.depth.batch_size=20", progress=messages)
    assert [m for m in messages.said if "repeats rows" in m] == [
        "task depth: batch_size 20 repeats rows, there are only 12."
    ]


STREAM = ("data.scenes={name: toy}", "train.stages=[codes,prior]")


def test_a_stream_trains_and_resumes_bit_for_bit(project: Project) -> None:
    project.plugin("toy", rows("Stream()"))
    messages = Messages()
    project.train("whole", *STREAM, progress=messages)
    assert any("streams: the oracle writes its codes in passing" in m for m in messages.said)
    project.plugin("kills", INTERRUPTS)
    with pytest.raises(Stopped):
        project.train("parts", *STREAM)
    (project.folder / "kills.py").unlink()
    project.plugin("toy", rows("Stream()"))
    project.train("parts", *STREAM, "train.workers=2", resume=True)
    assert same(weights(project.folder / "parts"), weights(project.folder / "whole"))


def test_refit_on_a_stream_is_refused_at_the_start(project: Project) -> None:
    project.plugin("toy", rows("Stream()"))
    with pytest.raises(TrainingError, match="task depth streams them"):
        project.train("run", "data.scenes={name: toy}")


def test_refit_without_kept_codes_is_refused_at_the_start(project: Project) -> None:
    with pytest.raises(TrainingError, match=r"set train.prior.views to 1 or more"):
        project.train("run", "train.prior.views=0")


def test_mixing_by_size_needs_sizes(project: Project) -> None:
    project.plugin("toy", rows("Stream()"))
    with pytest.raises(TrainingError, match=r"set mixing.by to weight"):
        project.train("run", *STREAM, "mixing.by=proportional")


def test_a_cache_cut_short_is_made_anew(project: Project, finished_run: Path) -> None:
    run = resumed_from(finished_run, "0-codes-00000005", project)
    kept = {}
    for cache in (run / "cache").iterdir():
        kept[cache] = cache.read_bytes()
        cache.write_bytes(kept[cache][: len(kept[cache]) // 2])
    project.train(run, resume=True)
    assert same(weights(run), weights(finished_run))
    assert all(cache.read_bytes() == content for cache, content in kept.items())


# --- trackers


def test_tensorboard_has_every_stage(project: Project) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    project.train("run", "train.trackers=[tensorboard]")
    events = accumulator.EventAccumulator(str(project.folder / "run/cynosure")).Reload()
    assert {"codes/depth/loss", "prior/depth/nll", "refit/gradient_norm"} <= set(events.Tags()["scalars"])
    steps = [e.step for stage in ("codes", "prior", "refit") for e in events.Scalars(f"{stage}/lr")]
    assert steps == [3, 5, 8, 10, 13, 14], "steps must go on from stage to stage"


@pytest.mark.parametrize(
    ("tracker", "said"),
    [("tensorbord", "did you mean 'tensorboard'"), ("comet_ml", "comet_ml is not installed; pip install")],
)
def test_a_tracker_that_is_not_there_is_one_sentence(project: Project, tracker: str, said: str) -> None:
    if tracker == "comet_ml" and cynosure_has(tracker):
        pytest.skip("comet_ml is installed")
    with pytest.raises(TrainingError, match=said):
        project.train("run", f"train.trackers=[{tracker}]")


def cynosure_has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def test_a_log_that_cannot_be_written_is_one_sentence(project: Project) -> None:
    (project.folder / "run/log.jsonl").mkdir(parents=True)
    with pytest.raises(CynosureError, match=r"could not write .*log.jsonl"):
        project.train("run")


def test_the_log_is_valid_json(finished_run: Path) -> None:
    for line in (finished_run / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["seconds"] >= 0
