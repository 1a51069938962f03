"""Two processes train one model: the same weights and codebooks everywhere, each row on one of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import Project, log, same, weights

SPIES = """
import hashlib, json
from cynosure import hookimpl

seen = []

def digest(module):
    content = b"".join(v.numpy().tobytes() for v in module.state_dict().values())
    return hashlib.sha256(content).hexdigest()

@hookimpl
def cynosure_training_step(run, batch):
    codes = None if batch.codes is None else batch.codes.flatten(1).tolist()
    seen.append([run.stage, run.step, batch.task, batch.keys.tolist(), codes])

@hookimpl
def cynosure_train_end(run, error):
    parts = {name: digest(getattr(run.model, name)) for name in ("base", "tokenizer", "prior")}
    rank = run.accelerator.process_index
    (run.directory / f"rank{rank}.json").write_text(json.dumps({"parts": parts, "seen": seen, "error": repr(error)}))
"""

STOPS = """
import os, signal
from cynosure import hookimpl

@hookimpl
def cynosure_training_step(run, batch):
    if (run.stage, run.step, run.accelerator.process_index) == ("prior", 2, 1) and os.environ.get("STOP"):
        del os.environ["STOP"]
        os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run of two processes, of which one is told to stop in stage prior, and which is then resumed."""
    project = Project(tmp_path_factory.mktemp("distributed"))
    project.plugin("spies", SPIES)
    project.plugin("stops", STOPS)
    evaluates = ("--set", "train.eval_every=4")
    stopped = project.command("train", "recipe.yaml", "-o", "run", *evaluates, processes=2, STOP="1")
    assert stopped.returncode != 0 and "stopped by you in stage prior after step 3" in stopped.stderr, stopped.stderr
    resumed = project.command("train", "recipe.yaml", "-o", "run", *evaluates, "--resume", processes=2)
    assert resumed.returncode == 0, resumed.stderr
    whole = project.command("train", "recipe.yaml", "-o", "whole", *evaluates, processes=2)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("trained: whole") == 1, "only the first process reports"
    return project


def ranks(run: Path) -> list[dict]:
    return [json.loads((run / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_both_processes_end_with_the_same_model(project: Project) -> None:
    first, second = ranks(project.folder / "whole")
    assert first["parts"] == second["parts"]


def test_a_run_stopped_on_one_process_resumes_bit_for_bit(project: Project) -> None:
    assert same(weights(project.folder / "run"), weights(project.folder / "whole"))
    assert log(project.folder / "run") == log(project.folder / "whole")


def test_rows_are_shared(project: Project) -> None:
    """In an epoch, which is three steps here, each process sees half of the rows of each task."""
    first, second = (r["seen"] for r in ranks(project.folder / "whole"))
    assert [s[:3] for s in first] == [s[:3] for s in second], "both work on the same task at a time"
    for task in ("depth", "colorization"):
        keys = [{k for s in seen if s[:1] == ["codes"] and s[1] < 3 and s[2] == task for k in s[3]} for seen in (first, second)]
        assert keys[0] | keys[1] == set(range(12)) and not keys[0] & keys[1]


def test_both_processes_have_the_codes_of_all_rows(project: Project) -> None:
    caches = {p.name.split("-")[0] + ("-sampled" if "sampled" in p.name else ""): np.load(p)
              for p in (project.folder / "whole/cache").iterdir()}  # fmt: skip
    assert caches.keys() == {"depth", "colorization", "depth-sampled", "colorization-sampled"}
    for name, codes in caches.items():
        missing = (codes < 0).all(axis=(1, 2, 3))
        assert missing.sum() == (6 if "sampled" in name else 0), f"{name} lacks rows"
        assert (codes[~missing] >= 0).all()
    for rank in ranks(project.folder / "whole"):
        steps = [s for s in rank["seen"] if s[0] == "prior"]
        assert steps
        for _, _, task, keys, codes in steps:
            for key, row in zip(keys, codes, strict=True):
                assert row in caches[task][key].reshape(2, -1).tolist(), "a row came with codes that are not its own"


def test_evaluation_covers_all_rows(project: Project) -> None:
    assert any("eval/depth/oracle/rmse" in line or any(k.startswith("eval/") for k in line) for line in log(project.folder / "whole"))
