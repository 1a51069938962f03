"""Two processes train one model: the same weights and codebooks everywhere, each row on one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import Project, log

SPIES = """
import hashlib, json
from cynosure import hookimpl

seen, losses = [], []

def digest(module):
    content = b"".join(v.numpy().tobytes() for v in module.state_dict().values())
    return hashlib.sha256(content).hexdigest()

@hookimpl
def cynosure_training_step(run, batch):
    codes = None if batch.codes is None else batch.codes.flatten(1).tolist()
    seen.append([run.stage, run.step, batch.task, batch.keys.tolist(), codes])

@hookimpl
def cynosure_step_end(run, logs):
    losses.append({name: value for name, value in logs.items() if name.endswith("/loss")})

@hookimpl
def cynosure_train_end(run, error):
    parts = {name: digest(getattr(run.model, name)) for name in ("base", "tokenizer", "prior")}
    file = run.directory / f"{'stopped' if error else 'finished'}{run.accelerator.process_index}.json"
    file.write_text(json.dumps({"parts": parts, "seen": seen, "losses": losses}))
"""

STOPS = """
import os, signal
from cynosure import hookimpl

@hookimpl
def cynosure_training_step(run, batch):
    if (run.stage, run.step, run.accelerator.process_index) == ("prior", 2, 1) and os.environ.pop("STOP", ""):
        os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, of which the second is told to stop in stage prior, and which is then resumed."""
    project = Project(tmp_path_factory.mktemp("distributed"))
    project.plugin("spies", SPIES)
    project.plugin("stops", STOPS)
    command = ("train", "recipe.yaml", "-o", "run", "--set", "train.eval_every=4")
    stopped = project.command(*command, processes=2, STOP="1")
    assert stopped.returncode != 0
    assert stopped.stderr.count("stopped by you in stage prior after step 3") == 2, stopped.stderr
    resumed = project.command(*command, "--resume", processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("trained: run") == 1, "only the first process reports"
    return project.folder / "run"


def both(run: Path, what: str) -> list[dict[str, Any]]:
    return [json.loads((run / f"{what}{rank}.json").read_text()) for rank in (0, 1)]


def test_both_processes_have_the_same_weights_and_codebooks(run: Path) -> None:
    for what in ("stopped", "finished"):
        first, second = both(run, what)
        assert first["parts"] == second["parts"]


def test_an_interrupt_of_one_process_stops_both_after_the_same_step(run: Path) -> None:
    stopped, finished = both(run, "stopped"), both(run, "finished")
    assert all(r["seen"][-1][:2] == ["prior", 2] for r in stopped)
    assert all(r["seen"][0][:2] == ["prior", 3] for r in finished)


def test_the_log_has_the_losses_of_both(run: Path) -> None:
    """They see other rows: a log of the first one's would call a task that the second one has trouble with healthy."""
    first, second = both(run, "finished")
    assert first["losses"] == second["losses"] and any(first["losses"])


def test_rows_are_shared(run: Path) -> None:
    """In an epoch, which is three steps here, each process sees half of the rows of each task."""
    first, second = (r["seen"] for r in both(run, "stopped"))
    assert [s[:3] for s in first] == [s[:3] for s in second], "both work on the same task at a time"
    for task in ("depth", "colorization"):
        epoch = [[s for s in seen if s[0] == "codes" and s[1] < 3 and s[2] == task] for seen in (first, second)]
        keys = [{key for step in steps for key in step[3]} for steps in epoch]
        assert keys[0] | keys[1] == set(range(12)) and not keys[0] & keys[1]


def test_both_processes_have_the_codes_of_what_they_read(run: Path) -> None:
    files = list((run / "cache").iterdir())
    sampled = [np.load(p) for p in files if "-sampled-" in p.name]
    assert [(codes < 0).all(axis=(1, 2, 3)).sum() for codes in sampled] == [6, 6], "half of the rows are sampled"
    caches = {p.name.partition("-")[0]: np.load(p) for p in files if "-sampled-" not in p.name}
    assert caches.keys() == {"depth", "colorization"}
    for rank in both(run, "finished"):
        steps = [s for s in rank["seen"] if s[0] == "prior"]
        assert steps
        for _, _, task, keys, codes in steps:
            for key, row in zip(keys, codes, strict=True):
                assert min(row) >= 0, "a row came without its codes"
                assert row in caches[task][key].reshape(2, -1).tolist(), "a row came with codes that are not its own"


def test_evaluation_is_of_all_rows_and_the_log_of_one_process(run: Path) -> None:
    evaluated = [line for line in log(run) if any(name.startswith("eval/") for name in line)]
    assert [(line["stage"], line["step"]) for line in evaluated] == [("codes", 4), ("prior", 4), ("refit", 4)]
