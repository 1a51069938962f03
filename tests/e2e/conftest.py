"""Fixtures of the tests that train."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import Project


@pytest.fixture(scope="session", autouse=True)
def quick_collections() -> Iterator[None]:
    """Each stage ends with a garbage collection, which need not go through all imported modules."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of the tiny recipe, with all its checkpoints. Never changed."""
    project = Project(tmp_path_factory.mktemp("finished"))
    project.train("run")
    return project.folder / "run"
