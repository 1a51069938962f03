"""Reference arrays. Their folder comes from CYNOSURE_GOLDEN: any set of the same layout runs through the same tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from uvim_models import Case

FOLDER = Path(os.environ.get("CYNOSURE_GOLDEN") or Path(__file__).parent)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `uvim_task` or `case` runs once for every task that has arrays."""
    if "uvim_task" in metafunc.fixturenames:
        files = sorted((FOLDER / "uvim").glob("*_vq_state.npz"))
        names = [file.name.removesuffix("_vq_state.npz") for file in files]
        metafunc.parametrize("uvim_task", names, scope="session")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with the reference arrays, one subfolder per reference system."""
    return FOLDER


@pytest.fixture(scope="session")
def case(golden: Path, uvim_task: str) -> Case:
    """The arrays of one of UViM's tasks."""
    return Case(golden / "uvim", uvim_task)


@pytest.fixture(scope="session")
def ops(golden: Path) -> dict[str, np.ndarray]:
    """UViM's operator-level cases, keyed `operator/case`."""
    with np.load(golden / "uvim" / "ops.npz") as arrays:
        return dict(arrays)
