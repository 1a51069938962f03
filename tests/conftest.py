"""What every test relies on: one thread a process, no network, a cache of its own."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

from cynosure.progress import Progress

# Before torch is imported: many threads on few busy cores are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

_OWN_CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """One cache for the session, shared by its worker processes, which inherit the variable."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.stash[_OWN_CACHE] = os.environ["CYNOSURE_CACHE"] = tempfile.mkdtemp(prefix="cynosure-tests-")
        os.environ["HF_DATASETS_CACHE"] = os.path.join(os.environ["CYNOSURE_CACHE"], "datasets")


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(_OWN_CACHE, None):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _silent_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that runs a command in this process leaves its progress bars to no other test."""
    monkeypatch.setattr("cynosure.progress._current", Progress())
