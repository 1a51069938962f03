"""Checkpoint files: whole or not there, read back bit for bit, and refused by name when they do not fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from cynosure.errors import CheckpointError
from cynosure.train import checkpoint as files


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


# --- writing


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        files.write_whole(file, lambda part, text=text: part.write_text(text))  # type: ignore[misc]
        assert file.read_text() == text
    assert [p.name for p in file.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_a_full_disk_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    file = tmp_path / "file.txt"
    file.write_text("old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def write(part: Path) -> None:
        part.write_text("half")
        if moment == "writing":
            full()

    if moment == "renaming":
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"could not write .*file.txt .*No space left.* free some space"):
        files.write_whole(file, write)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_an_interrupted_write_leaves_no_rubbish(tmp_path: Path) -> None:
    def write(part: Path) -> None:
        part.mkdir()
        (part / "inside").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_whole(tmp_path / "folder", write)
    assert not list(tmp_path.iterdir())


def test_parts_of_killed_writes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("checkpoints/.0-codes-00000004.77.part", "checkpoints/0-codes-00000002", "cache"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / files.STATE).write_text("{}")
    (tmp_path / ".model.safetensors.77.part").write_text("half")
    (tmp_path / "my.part").write_text("the user's own")
    assert [p.name for p in files.step_directories(tmp_path)] == ["0-codes-00000002"]
    files.remove_parts(tmp_path)
    left = {p.name for p in tmp_path.rglob("*") if p.name != files.STATE}
    assert left == {"checkpoints", "0-codes-00000002", "cache", "my.part"}


# --- tensors


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {
        "float": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "whole": torch.arange(3),
        "scalar": torch.tensor(2.5),
        "view": torch.randn(4, 6).t(),
        "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    files.write_tensors(tmp_path / "file", tensors, {"who": "me"})
    read, told = files.read_tensors(tmp_path / "file")
    assert told == {"who": "me"} == files.read_metadata(tmp_path / "file")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in tensors.items())


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    module["b"].weight = module["a"].weight
    files.write_tensors(tmp_path / "file", module.state_dict())
    read, _ = files.read_tensors(tmp_path / "file")
    assert torch.equal(read["a.weight"], read["b.weight"])


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_file_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "file.safetensors"
    files.write_tensors(file, model().state_dict())
    file.write_bytes(file.read_bytes()[:cut])
    for read in (files.read_tensors, files.read_metadata):
        with pytest.raises(CheckpointError, match=r"file.safetensors is damaged"):
            read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint file"):
        files.read_tensors(tmp_path / "none")


def test_a_model_takes_its_state(tmp_path: Path) -> None:
    original, copy = model(), model()
    original[1].running_mean.fill_(3)
    files.load_state(copy, original.state_dict(), tmp_path)
    assert all(torch.equal(v, copy.state_dict()[k]) for k, v in original.state_dict().items())


def test_what_does_not_fit_is_said_at_once_and_changes_nothing() -> None:
    module = model()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    wrong = {k: v + 1 for k, v in before.items()} | {"2.bias": torch.zeros(1), "0.bias": torch.zeros(7)}
    del wrong["0.weight"]
    with pytest.raises(CheckpointError) as caught:
        files.load_state(module, wrong, Path("some/file"))
    for said in ("some/file", "1 missing (0.weight)", "1 left over (2.bias)", "0.bias is [7], wanted [4]"):
        assert said in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


# --- optimizers


def stepped(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    for value in module.parameters():
        value.grad = torch.empty_like(value).copy_(
            torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
        )
    optimizer.step()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1),
    ],
    ids=["fused adamw", "adamw", "momentum", "sgd"],
)
def test_an_optimizer_goes_on_as_if_never_stopped(tmp_path: Path, make, layout: torch.memory_format) -> None:  # type: ignore[no-untyped-def]
    """Fused optimizers walk through memory, so state must come back in the layout of its weights."""
    module = nn.Conv2d(3, 4, 2).to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = make(module.parameters())
    stepped(module, optimizer, 1)
    files.write_tensors(tmp_path / "file", files.optimizer_tensors(optimizer))
    copy = nn.Conv2d(3, 4, 2).to(memory_format=layout)  # type: ignore[call-overload]
    copy.load_state_dict(module.state_dict())
    resumed = make(copy.parameters())
    files.load_optimizer(resumed, files.read_tensors(tmp_path / "file")[0])
    for seed in (2, 3):
        stepped(module, optimizer, seed)
        stepped(copy, resumed, seed)
    assert torch.equal(copy.weight, module.weight) and torch.equal(copy.bias, module.bias)


def test_the_state_of_a_larger_model_is_refused() -> None:
    module = model()
    optimizer = torch.optim.AdamW(module.parameters())
    with pytest.raises(CheckpointError, match="none of these 4 parameters"):
        files.load_optimizer(optimizer, {"4.exp_avg": torch.zeros(3)})


def test_state_finds_its_parameter_in_other_groups() -> None:
    """Which parameters share a group may change between versions; momenta must not go to other weights."""
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    saved = torch.optim.SGD([{"params": [a, b], "names": ["a", "b"]}], lr=0.1, momentum=0.9)
    a.grad, b.grad = torch.ones(3), torch.full((3,), 2.0)
    saved.step()
    groups = [{"params": [b], "names": ["b"]}, {"params": [a], "names": ["a"]}]
    resumed = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    files.load_optimizer(resumed, files.optimizer_tensors(saved))
    assert all(torch.equal(resumed.state[p]["momentum_buffer"], saved.state[p]["momentum_buffer"]) for p in (a, b))
    with pytest.raises(CheckpointError, match="earlier version"):
        files.load_optimizer(resumed, {"0.momentum_buffer": torch.zeros(3)})


# --- folders


def folder(run: Path, name: str) -> Path:
    path = run / "checkpoints" / name
    path.mkdir(parents=True)
    (path / files.STATE).write_text("{}")
    files.write_tensors(path / files.MODEL, {"x": torch.zeros(1)})
    return path


def test_checkpoints_are_ordered_by_stage_then_step(tmp_path: Path) -> None:
    names = ["0-codes-00000900", "0-codes-00001000", "1-prior-00000005", "2-refit-00000001"]
    for name in reversed(names):
        folder(tmp_path, name)
    assert [p.name for p in files.step_directories(tmp_path)] == names
    files.prune(tmp_path, 2)
    assert [p.name for p in files.step_directories(tmp_path)] == names[2:]


def test_a_run_means_its_final_model_or_else_its_newest_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        files.model_file(tmp_path)
    folder(tmp_path, "0-codes-00000001")
    newest = folder(tmp_path, "0-codes-00000002")
    assert files.model_file(tmp_path) == newest / files.MODEL == files.model_file(newest / files.MODEL)
    files.write_tensors(tmp_path / files.MODEL, {"x": torch.zeros(1)})
    assert files.model_file(tmp_path) == tmp_path / files.MODEL


def test_an_unreadable_state_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path, "0-codes-00000001")
    (path / files.STATE).write_text('{"stage": "co')
    with pytest.raises(CheckpointError, match=r"state.json cannot be read"):
        files.read_state(path)
