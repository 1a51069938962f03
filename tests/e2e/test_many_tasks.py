"""Training several tasks at once: what the user is told of each, and how early of one that starves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import CODES_ONLY, Messages, Project, log, resumed_from, same, weights

from cynosure.progress import Bar
from cynosure.run.evaluate import during_training

RARE = ("tasks.depth.weight=0.01", "data.scenes.train=200", "train.codes.steps=4")


def warnings(messages: Messages) -> list[str]:
    return [text for text in messages.said if text.startswith("warning: ")]


def told(run: Path) -> list[str]:
    return [line["warning"] for line in log(run) if "warning" in line]


class Notes(Messages):
    """Keeps what stands beside the progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def bar(self, title: str, total: int, done: int = 0):  # type: ignore[no-untyped-def]
        from contextlib import contextmanager

        notes = self.notes

        class Listening(Bar):
            def advance(self, count: int = 1, note: str = "") -> None:
                notes.append(note)

        @contextmanager
        def listening():  # type: ignore[no-untyped-def]
            yield Listening()

        return listening()


def test_an_ordinary_run_warns_of_nothing(project: Project) -> None:
    messages = Messages()
    project.train("run", progress=messages)
    assert not warnings(messages) and not told(project.folder / "run")


def test_a_task_that_is_hardly_seen_is_named_once_before_the_first_step(project: Project) -> None:
    messages = Messages()
    project.train("run", *RARE, progress=messages)
    (text,) = warnings(messages)
    assert "task depth will hardly be seen" in text and "raise tasks.depth.weight" in text
    first = json.loads((project.folder / "run/log.jsonl").read_text().splitlines()[0])
    assert (first["stage"], first["step"]) == ("codes", 0) and first["warning"] in text


def test_a_run_that_begins_anew_says_it_again(project: Project) -> None:
    """What the attempt before had said was lost with it."""
    begun, messages = project.folder / "run", Messages()
    project.train("run", *RARE)
    shutil.rmtree(begun / "checkpoints")
    (begun / "model.safetensors").unlink()
    project.train("run", *RARE, progress=messages)
    assert len(warnings(messages)) == len(told(begun)) == 1


@pytest.mark.parametrize("checkpoint", ["0-codes-00000002", "0-codes-00000004"], ids=["in a stage", "between stages"])
def test_a_resumed_run_does_not_say_it_again(project: Project, checkpoint: str) -> None:
    project.train("whole", *RARE)
    messages = Messages()
    run = resumed_from(project.folder / "whole", checkpoint, project)
    project.train(run, *RARE, resume=True, progress=messages)
    assert not warnings(messages)
    assert log(run) == log(project.folder / "whole"), "the log must be that of a run that never stopped"


def test_warnings_change_nothing(project: Project, finished_run: Path) -> None:
    project.registry.write_text("schema: 1\nplugins:\n  starvation: {enabled: false}\n")
    project.train("run")
    assert same(weights(project.folder / "run"), weights(finished_run))


def test_any_plugin_can_warn(project: Project) -> None:
    project.plugin("worried", """
from cynosure import hookimpl

@hookimpl
def cynosure_stage_start(run, data, mixture):
    if run.stage == "codes":
        shares = ", ".join(f"{task} {share:.0%} of {len(data[task])} rows" for task, share in mixture.shares.items())
        run.warn(f"mind the tasks: {shares}.")
""")  # fmt: skip
    messages = Messages()
    project.train("run", *CODES_ONLY, progress=messages)
    sentence = "mind the tasks: depth 50% of 12 rows, colorization 50% of 12 rows."
    assert warnings(messages) == [f"warning: {sentence}"] and told(project.folder / "run") == [sentence]


def test_the_progress_bar_has_the_loss_of_every_task(project: Project) -> None:
    notes = Notes()
    project.train("run", *CODES_ONLY, progress=notes)
    assert "depth " in notes.notes[-1] and "colorization " in notes.notes[-1]


def test_evaluation_in_training_sums_up_every_task_in_a_line(project: Project) -> None:
    messages = Messages()
    project.train("run", "train.eval_every=4", progress=messages, evaluate=during_training)
    codes, prior, refit = [text for text in messages.said if text.startswith("stage ")]
    assert "stage codes, step 4: depth rmse" in codes and "colorization psnr" in codes and "(codes: oracle)" in codes
    assert "(codes: prior)" in prior and "(codes: prior)" in refit
    evaluated = [line for line in log(project.folder / "run") if "eval/depth/oracle/rmse" in line]
    assert len(evaluated) == 3 and all("eval/colorization/oracle/psnr" in line for line in evaluated)


def test_sizes_of_datasets_decide_how_often_tasks_are_drawn(project: Project) -> None:
    """Three times the rows, the same batch size: three times the micro-batches."""
    project.plugin("counts", """
import json
from cynosure import hookimpl

@hookimpl
def cynosure_stage_start(run, data, mixture):
    (run.directory / "shares.json").write_text(json.dumps(mixture.shares))
""")  # fmt: skip
    more = "data.more={name: scenes, size: 16, train: 36, validation: 4, test: 4}"
    project.train("run", more, "tasks.depth.data=more", "mixing.by=proportional", *CODES_ONLY)
    shares = json.loads((project.folder / "run/shares.json").read_text())
    assert shares == pytest.approx({"depth": 0.75, "colorization": 0.25})
