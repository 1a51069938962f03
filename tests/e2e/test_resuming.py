"""What becomes of a run when it is killed, stopped, cut short or asked for what cannot be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tiny_runs import CODES_ONLY, INTERRUPTS, Messages, Project, log, resumed_from, same, weights

from cynosure.errors import CheckpointError, TrainingError
from cynosure.train import checkpoint as files
from cynosure.train import interrupt
from cynosure.train.interrupt import Stopped

KILLS = """
import os, signal
from cynosure import hookimpl

@hookimpl
def cynosure_training_step(run, batch):
    if os.environ.get("KILL_AT") == f"{run.stage} {run.step}":
        os.kill(os.getpid(), signal.SIGKILL)
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


@pytest.mark.parametrize(
    ("signals", "grace", "saved"),
    [
        (["SIGTERM"], -1.0, True),
        (["SIGTERM", "SIGTERM"], -1.0, True),
        (["SIGINT", "SIGINT"], interrupt.GRACE, True),
        (["SIGINT", "SIGINT"], -1.0, False),
    ],
    ids=["terminated", "terminated by scheduler and launcher", "one key, told twice", "a second key"],
)
def test_termination_saves_too_and_a_second_interrupt_stops_at_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, signals: list[str], grace: float, saved: bool
) -> None:
    """At once means in the middle of a step, which must not be saved. A launcher passes on what its workers have been
    told already: that is no second wish."""
    monkeypatch.setattr(interrupt, "GRACE", grace)
    sent = "".join(f"        os.kill(os.getpid(), signal.{name})\n" for name in signals)
    project.plugin(
        "signals",
        "import os, signal\nfrom cynosure import hookimpl\n@hookimpl\ndef cynosure_training_step(run, batch):\n"
        f"    if run.step == 0 and not hasattr(run, 'sent'):\n        run.sent = True\n{sent}",
    )
    with pytest.raises(Stopped, match=f"after step {1 if saved else 0}, .*") as caught:
        project.train("run")
    assert caught.value.exit_code == 130
    assert [p.name for p in project.folder.glob("run/checkpoints/*")] == ["0-codes-00000001"] * saved


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


def test_resuming_a_model_without_its_checkpoints_does_not_begin_over_it(project: Project, finished_run: Path) -> None:
    """As `cynosure convert` writes it, or a run whose checkpoints were deleted for their space."""
    run = Path(shutil.copytree(finished_run, project.folder / "run"))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match=r"no checkpoint to go on from: .* --set init\.from="):
        project.train("run", resume=True)
    assert same(weights(run), weights(finished_run)) and log(run) == log(finished_run)


def test_a_folder_that_cannot_be_made_is_one_sentence(project: Project) -> None:
    (project.folder / "run").write_text("a file")
    with pytest.raises(TrainingError, match=r"run cannot be made a folder .*--output"):
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


def test_a_checkpoint_that_lost_its_state_is_named_and_not_passed_over(project: Project, finished_run: Path) -> None:
    """Steps that are done again would find a folder of their name, and save nothing."""
    run = resumed_from(finished_run, "0-codes-00000004", project)
    (run / "checkpoints/0-codes-00000004" / files.STATE).unlink()
    with pytest.raises(CheckpointError, match=r"0-codes-00000004 has lost its state\.json\. Remove .*0-codes-00000004"):
        project.train(run, resume=True)
    with pytest.raises(TrainingError, match="already holds a run"):
        project.train(run)


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
    with pytest.raises(CheckpointError, match=r"No space left on device.*free some space, then go on .*--resume"):
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
