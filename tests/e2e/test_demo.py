"""The main job from end to end, as a stranger runs it, in the shortest time it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    environment = {**os.environ, "CYNOSURE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cynosure", "demo", "--minutes", "1"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return folder / "runs" / "demo", done


def test_it_succeeds_and_says_where_to_look(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run, done = finished
    assert done.returncode == 0, done.stderr
    for file in ("metrics.json", "overview.png", "panoptic.png", "depth.png", "colorization.png", "photographs.png"):
        assert file in done.stdout, f"the closing lines do not name {file}"
    assert (run / "model.safetensors").is_file()


def test_progress_shows_the_time_left(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert " left" in finished[1].stderr and "stage codes" in finished[1].stderr


def test_metrics_compare_every_source_of_codes(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    for task in ("panoptic", "depth", "colorization"):
        assert {"oracle", "prior", "random", "none", "baseline"} <= set(metrics["tasks"][task]["metrics"])


def test_pictures_show_something(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    for file in (finished[0] / "pictures").glob("*.png"):
        pixels = np.asarray(Image.open(file))
        assert min(pixels.shape[:2]) > 200, f"{file.name} is too small to look at"
        assert pixels.std() > 20, f"{file.name} is blank"
