"""A demo makes room for itself only where a demo was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from cynosure.errors import CynosureError
from cynosure.run.demo import MARK, METRICS, _make_room

RUN = ("model.safetensors", "recipe.yaml", METRICS, "log.jsonl", "checkpoints/1-codes/state.json")


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_was_trained_and_evaluated_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(CynosureError, match="another folder"):
        _make_room(filled(tmp_path, *RUN))
    assert left(tmp_path) == set(RUN)


def test_a_folder_of_somebody_else_is_refused_and_kept(tmp_path: Path) -> None:
    """`cynosure demo -o .` must never remove what it did not write, even where a metrics.json lies."""
    with pytest.raises(CynosureError, match="another folder"):
        _make_room(filled(tmp_path, METRICS, "thesis.tex"))
    assert left(tmp_path) == {METRICS, "thesis.tex"}


def test_a_finished_demo_gives_way_and_an_interrupted_one_stays(tmp_path: Path) -> None:
    begun = filled(tmp_path / "begun", MARK, "recipe.yaml", "checkpoints/1-codes/state.json")
    _make_room(begun)
    assert len(left(begun)) == 3
    done = filled(tmp_path / "done", MARK, *RUN, "notes.txt")
    _make_room(done)
    assert left(done) == {MARK, "notes.txt"}, "a demo stopped here could not go on"
