"""The wheel holds everything, and an installed Cynosure lists what the checkout lists."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    run(*pip, cwd=site)
    return site


def sources() -> set[str]:
    """What the wheel must hold: every file of the packages that is not a build product."""
    found = set()
    for folder in ("platform/cynosure", "plugins/cynosure_plugins", "tasks/cynosure_tasks"):
        files = (file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        found |= {file.relative_to((ROOT / folder).parent).as_posix() for file in files}
    return found


def test_the_wheel_holds_the_packages_the_registry_and_the_recipes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert not sources() - names, f"the wheel lacks {sorted(sources() - names)}"
    assert "cynosure/registry.yaml" in names
    assert any(name.startswith("cynosure_tasks/recipes/") and name.endswith(".yaml") for name in names)
    foreign = {n.split("/")[0] for n in names if ".dist-info/" not in n} - {
        "cynosure",
        "cynosure_plugins",
        "cynosure_tasks",
    }
    assert not foreign, f"the wheel would install {sorted(foreign)} beside the packages"


@pytest.mark.parametrize("command", ["plugins list", "recipes list", "--version"])
def test_an_installed_cynosure_lists_what_the_checkout_lists(installed: Path, command: str, tmp_path: Path) -> None:
    cynosure = (sys.executable, "-m", "cynosure", *command.split())
    from_wheel = run(*cynosure, cwd=tmp_path, PYTHONPATH=str(installed))
    assert from_wheel == run(*cynosure, cwd=tmp_path)
    assert from_wheel.strip()


def test_every_plugin_loads_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import cynosure; from cynosure.host import load_host; load_host(strict=True); print(cynosure.__file__)"
    where = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(where.strip()).is_relative_to(installed), "the checkout was tested instead of the wheel"
