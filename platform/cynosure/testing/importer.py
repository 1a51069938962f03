"""Checks of importers: published checkpoints in, tensors of ours out, and nothing of what a file says is ever run.

An importer carries what it is checked with: `TESTING = {"files": write}`, where `write(folder)` writes a tiny, complete
checkpoint in the published format and returns its files.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from cynosure.core.contracts import Importer
from cynosure.core.records import Imported
from cynosure.errors import CheckpointError
from cynosure.testing.checks import Subject, check


@contextmanager
def _files(subject: Subject) -> Iterator[list[Path]]:
    write: Callable[[Path], list[Path]] | None = getattr(subject.cls, "TESTING", {}).get("files")
    assert write, "give it TESTING = {'files': a function that writes a tiny checkpoint into a folder}"
    with TemporaryDirectory() as folder:
        yield list(write(Path(folder)))


def _read(subject: Subject, files: list[Path]) -> Imported:
    importer: Importer = subject.build()
    return importer.read(files)


@check("importer")
def tensors_are_what_they_say(subject: Subject) -> None:
    with _files(subject) as files:
        for name, lazy in _read(subject, files).tensors.items():
            tensor = lazy.make()
            assert torch.is_tensor(tensor), f"{name} must be a tensor, not {type(tensor).__name__}"
            got, said = (tuple(tensor.shape), tensor.dtype), (lazy.shape, lazy.dtype)
            assert got == said, f"{name} says {said} and is {got}"
            assert torch.equal(tensor, lazy.make()), f"{name} is another tensor the second time"


@check("importer")
def files_may_come_in_any_order(subject: Subject) -> None:
    with _files(subject) as files:
        first, second = _read(subject, files), _read(subject, files[::-1])
        assert first.recipe == second.recipe, "another order of the files gives another recipe"
        assert first.tensors.keys() == second.tensors.keys(), "another order of the files gives other tensors"


@check("importer")
def the_model_loads_with_these_tensors(subject: Subject) -> None:
    from cynosure.run.convert import convert
    from cynosure.run.loading import load

    with _files(subject) as files, TemporaryDirectory() as folder:
        imported = convert(subject.name, files, Path(folder), subject.host)
        predictor = load(folder, device="cpu", host=subject.host)
        got, wanted = predictor.model.state_dict(), imported.tensors
        assert got.keys() == wanted.keys(), f"the model has other tensors: {sorted(got.keys() ^ wanted.keys())[:4]}"
        for name, lazy in wanted.items():
            assert torch.equal(got[name], lazy.make()), f"{name} is another tensor once the model is loaded"


@check("importer")
def a_missing_file_is_one_sentence(subject: Subject) -> None:
    _require_refusal(subject, Path("there is no such file.npz"), "a file that does not exist")


@check("importer")
def a_damaged_file_is_one_sentence(subject: Subject) -> None:
    with _files(subject) as files:
        for file in files:
            whole = file.read_bytes()
            for what, content in {
                "an empty file": b"",
                "noise": np.random.default_rng(0).bytes(1000),
                "a file that was cut short": whole[: len(whole) // 2],
            }.items():
                file.write_bytes(content)
                _require_refusal(subject, file, what)


@check("importer")
def code_in_a_file_never_runs(subject: Subject) -> None:
    with TemporaryDirectory() as folder:
        for number, content in enumerate(_traps(Path(folder) / "sprung")):
            file = Path(folder) / f"trap{number}.npz"
            file.write_bytes(content)
            _require_refusal(subject, file, "a file with pickled code")
            assert not (Path(folder) / "sprung").exists(), "reading a file ran code that is in it; never load pickles"


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.folder,)


def _traps(folder: Path) -> Iterator[bytes]:
    """Pickles in the clothes of the usual formats."""
    trap = _Trap(folder)
    yield pickle.dumps(trap)
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.array([trap], dtype=object))
    yield buffer.getvalue()
    buffer = io.BytesIO()
    torch.save({"weight": trap}, buffer)
    yield buffer.getvalue()


def _require_refusal(subject: Subject, file: Path, what: str) -> None:
    try:
        _read(subject, [file])
    except CheckpointError as error:
        assert str(error).strip(), f"{what} is refused without a word"
    else:
        raise AssertionError(f"{what} is taken for a checkpoint; raise CheckpointError")
