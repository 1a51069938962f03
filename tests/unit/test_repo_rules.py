"""Rules of this repository that no linter knows."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = {"platform": "cynosure", "plugins": "cynosure_plugins", "tasks": "cynosure_tasks"}
PACKAGES = {package: ROOT / root / package for root, package in SOURCE_ROOTS.items()}
MAY_IMPORT = {
    "cynosure": {"cynosure"},
    "cynosure_plugins": {"cynosure", "cynosure_plugins"},
    "cynosure_tasks": {"cynosure", "cynosure_tasks"},
}
LAYERS = {
    "core": ("cli", "config", "data", "host", "registry", "run", "testing", "train"),
    "data": ("cli", "config", "host", "run", "testing", "train"),
    "train": ("cli", "testing"),
    "run": ("cli", "testing"),
}
HEAVY = ("accelerate", "datasets", "pandas", "scipy", "skimage", "timm", "torch", "torchmetrics", "torchvision")
MAX_LINES = 400
MAX_BYTES = 1 << 20


def repository_files() -> list[Path]:
    """Files that are or would be committed."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def modules() -> Iterator[tuple[str, Path]]:
    """(package, file) of all Python files in the three packages."""
    for package, folder in PACKAGES.items():
        yield from ((package, file) for file in sorted(folder.rglob("*.py")))


def imports(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def here(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("folder", [*SOURCE_ROOTS, "tests", *(f"tests/{d.name}" for d in (ROOT / "tests").iterdir())])
def test_source_roots_are_no_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/__init__.py would shadow modules of other packages"


def test_torch_imports_from_the_repository_root() -> None:
    code = "import platform, torch; platform.machine()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_packages_depend_one_way() -> None:
    wrong = [
        f"{here(file)} imports {name}"
        for package, file in modules()
        for name in imports(file)
        if name.split(".")[0] in MAY_IMPORT.keys() - MAY_IMPORT[package]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_depend_one_way(layer: str) -> None:
    forbidden = tuple(f"cynosure.{other}" for other in LAYERS[layer])
    wrong = [
        f"{here(file)} imports {name}"
        for file in sorted((PACKAGES["cynosure"] / layer).rglob("*.py"))
        for name in imports(file)
        if f"{name}.".startswith(tuple(f"{other}." for other in forbidden)) and not _only_for_types(file, name)
    ]
    assert not wrong, "\n".join(wrong)


def _only_for_types(file: Path, name: str) -> bool:
    """Whether all imports of `name` stand under `if TYPE_CHECKING`."""
    tree = ast.parse(file.read_text())
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    inside = {id(child) for block in guarded for child in ast.walk(block)}
    module = name.rpartition(".")[0]
    found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == module]
    return bool(found) and all(id(n) in inside for n in found)


def test_files_have_one_job() -> None:
    long = {
        here(f): n for f in repository_files() if f.suffix == ".py" and (n := f.read_bytes().count(b"\n")) >= MAX_LINES
    }
    assert not long, f"files of {MAX_LINES} lines or more are two things: {long}"


def test_files_are_small() -> None:
    large = {here(file): file.stat().st_size for file in repository_files() if file.stat().st_size > MAX_BYTES}
    assert not large, f"files over {MAX_BYTES} bytes do not belong in the repository: {large}"


def test_every_module_says_what_it_is_for() -> None:
    silent = [here(file) for _, file in modules() if not ast.get_docstring(ast.parse(file.read_text()))]
    assert not silent, f"modules without a docstring: {silent}"


CONTRACTS = ("config", "importer", "networks", "tasks")
PUBLIC = ["hookspecs.py", "core/records.py", "testing/checks.py", *(f"core/contracts/{name}.py" for name in CONTRACTS)]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_documented(module: str) -> None:
    tree = ast.parse((PACKAGES["cynosure"] / module).read_text())
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    silent = [node.name for node in public if not ast.get_docstring(node)]
    assert public and not silent, f"{module}: say what {silent} are for"


def test_hooks_say_when_they_fire_and_what_to_return() -> None:
    tree = ast.parse((PACKAGES["cynosure"] / "hookspecs.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            missing = [a.arg for a in node.args.args if f"{a.arg}:" not in text]
            assert text.startswith("Fires") and "Return" in text and not missing, (
                f"{node.name} lacks {missing or 'when'}"
            )


PATTERNS = {
    "a path of one machine": re.compile(r"(?<![\w./-])/(?:work|root|tmp|home|Users)/\w"),
    "unfinished work": re.compile(r"\b(?:TO[D]O|FIX[M]E|HAC[K])\b"),
}


@pytest.mark.parametrize("what", PATTERNS)
def test_nothing_unfinished_or_local_is_committed(what: str) -> None:
    found = []
    for file in repository_files():
        if file.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".sh", ""}:
            for number, line in enumerate(file.read_text(errors="ignore").splitlines(), 1):
                if PATTERNS[what].search(line):
                    found.append(f"{here(file)}:{number}: {line.strip()[:80]}")
    assert not found, f"{what}:\n" + "\n".join(found)


@pytest.mark.parametrize("command", ["--help", "--version", "plugins list", "recipes list", "plugins --help"])
def test_listings_stay_light(command: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from cynosure.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('heavy:', *sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr)\n"
    )
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), f"cynosure {command} prints nothing"
    assert done.stderr.splitlines()[-1] == "heavy:", f"cynosure {command} imports {done.stderr.splitlines()[-1]}"


@pytest.mark.parametrize("extra", ["", "test"])
def test_every_import_is_declared(extra: str) -> None:
    """What only another package's dependencies bring may be gone with its next release."""
    import tomllib
    from importlib.metadata import packages_distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    declared = {canonicalize_name(Requirement(each).name) for each in wanted}
    own = {*MAY_IMPORT, *(file.stem for file in (ROOT / "tests").rglob("*.py"))}
    files = (ROOT / "tests").rglob("*.py") if extra else (file for _, file in modules())
    top = {name.split(".")[0] for file in files for name in imports(file)} - own - set(sys.stdlib_module_names)
    brought_by = packages_distributions()
    missing = {
        name for name in top if declared.isdisjoint(canonicalize_name(each) for each in brought_by.get(name, [name]))
    }
    assert top and not missing, f"pyproject.toml does not declare what brings {sorted(missing)}"


def test_constraints_fit_what_is_declared() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    declared = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, declared):
        pin = pinned.get(canonicalize_name(requirement.name), "")
        assert pin.startswith("=="), f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(pin[2:]), f"{requirement} does not allow {pin}"
    assert not [pin for pin in pinned.values() if "+" in pin], "a local version such as +cpu exists on one index only"
