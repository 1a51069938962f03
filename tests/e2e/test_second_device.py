"""Models that live on another device than the CPU, as on a GPU: no tensor is forgotten on the wrong one.

The device is made of the CPU (second_device.py). What is tested there are tests that exist: training in all stages with
every kind of prior, criteria, evaluation, editing and steering.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch cannot make a device in Python",
)
TESTS = Path(__file__).parents[1]
CASES = {
    "tests/e2e/test_matrix.py": "guided_by",
    "tests/e2e/test_criteria_runs.py": "not two_processes",
    "tests/e2e/test_protocols.py": "measures_all_columns",
    "tests/unit/test_editing.py": "every_prior_keeps",
    "tests/unit/test_codes.py": "can_be_given",
}
MISTAKES = """
import torch
from second_device import NAME, Placing, TwoDevices, install
install()
with Placing():
    there = torch.zeros(2, 3, device=NAME)
    assert (there + 1).device.type == there[torch.tensor([0])].device.type == NAME
    assert (there.cpu() + torch.ones(3)).device.type == "cpu"
    for mistake in (lambda: there + torch.ones(3), lambda: torch.ones(2, 3)[there.bool()], lambda: there.numpy()):
        try:
            mistake()
        except (TwoDevices, TypeError):
            continue
        raise SystemExit("a mistake went unnoticed")
"""


def on_second_device(*words: str) -> subprocess.CompletedProcess[str]:
    paths = [str(TESTS / "e2e"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=600
    )


def test_the_device_notices_mistakes() -> None:
    done = on_second_device("-c", MISTAKES)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", CASES)
def test_models_work_on_another_device(file: str) -> None:
    plugin = ("-p", "second_device", "-p", "no:cacheprovider")
    done = on_second_device("-m", "pytest", *plugin, "-q", file, "-k", CASES[file])
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
