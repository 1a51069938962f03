"""FSDP: two processes with half of the weights each train what DDP trains, and leave files that anybody can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Project, log, same, weights

import cynosure
from cynosure.errors import TrainingError

WORKER = str(Path(__file__).with_name("sharded_runs.py"))
RANKS = (0, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs of `sharded_runs` in all stages."""
    return launched(tmp_path_factory, "stages")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its runs of parts that are called in several ways."""
    return launched(tmp_path_factory, "parts")


def launched(folders: pytest.TempPathFactory, what: str) -> Path:
    project = Project(folders.mktemp(what))
    done = project.launch(WORKER, str(project.folder), what, processes=2)
    assert done.returncode == 0, done.stderr
    return project.folder


def told(runs: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(runs / f"{name}{rank}.pt") for rank in RANKS]


def test_each_process_holds_its_share(runs: Path) -> None:
    for name, share in (("ddp", 1.0), ("fsdp", 0.5)):
        assert all(report["share"] == pytest.approx(share, abs=0.02) for report in told(runs, name))


def require_same_steps(runs: Path, sharded: str, plain: str, count: int) -> None:
    """The same losses and gradients in every step."""
    both = [log(runs / name) for name in (sharded, plain)]
    steps = [[line for line in lines if "lr" in line] for lines in both]
    assert len(steps[0]) == len(steps[1]) == count
    for mine, other in zip(*steps, strict=True):
        assert mine == pytest.approx(other, abs=1e-4), f"stage {other['stage']}, step {other['step']}"


@pytest.mark.parametrize(("part", "count"), [("next_scale", 4), ("soft_codes", 4), ("curvature", 2)])
def test_parts_that_are_called_in_several_ways_train_as_ddp_does(parts: Path, part: str, count: int) -> None:
    """Criteria, penalties, soft codes, blocks that are modulated apart."""
    require_same_steps(parts, f"{part}_fsdp", f"{part}_ddp", count)
    first, second = told(parts, f"{part}_fsdp")
    assert same(first["gathered"], second["gathered"])


@pytest.mark.parametrize(("sharded", "plain"), [("fsdp", "ddp"), ("gradient_fsdp", "gradient_ddp")])
def test_all_stages_train_as_ddp_does(runs: Path, sharded: str, plain: str) -> None:
    """Losses and gradients of every step, final weights; with buffers as codebook and with a learnt one."""
    require_same_steps(runs, sharded, plain, 8 if plain == "ddp" else 3)
    trained = weights(runs / plain)
    for name, tensor in weights(runs / sharded).items():
        if name.endswith("qkv.bias"):
            continue  # the keys' part changes no attention: its gradient is all rounding, which optimizers scale up
        torch.testing.assert_close(tensor, trained[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("name", ["fsdp", "resumed", "gradient_fsdp"])
def test_both_processes_have_the_same_codebook_and_buffers(runs: Path, name: str) -> None:
    first, second = told(runs, name)
    assert same(first["codebook"], second["codebook"]) and same(first["buffers"], second["buffers"])
    assert same(first["gathered"], second["gathered"])


def test_the_model_file_is_whole_and_loads_in_one_process(runs: Path) -> None:
    saved, (report, _) = weights(runs / "fsdp"), told(runs, "fsdp")
    assert same({name: saved[name] for name in report["gathered"]}, report["gathered"])
    assert saved.keys() == weights(runs / "ddp").keys()
    assert sorted(cynosure.load(runs / "fsdp").tasks) == ["colorization", "depth"]


def test_a_resumed_run_ends_as_one_that_never_stopped(runs: Path) -> None:
    """From within stage prior, with Muon's state; recomputing blocks in the second half makes no difference."""
    assert same(weights(runs / "resumed"), weights(runs / "fsdp"))
    assert log(runs / "resumed") == log(runs / "fsdp")


def test_processes_may_evaluate_different_numbers_of_batches(runs: Path) -> None:
    evaluated = [line for line in log(runs / "fsdp") if any(name.startswith("eval/") for name in line)]
    assert [(line["stage"], line["step"]) for line in evaluated] == [("codes", 2), ("prior", 2), ("refit", 2)]


@pytest.mark.parametrize(
    ("variable", "value", "advice"),
    [
        ("FSDP_VERSION", "1", "set fsdp_version: 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "set fsdp_offload_params: false"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "set fsdp_cpu_ram_efficient_loading: false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "train.checkpointing: true"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_built(
    project: Project, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, advice: str
) -> None:
    for name, setting in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", variable: value}.items():
        monkeypatch.setenv(name, setting)
    with pytest.raises(TrainingError, match=advice):
        project.train("run")
