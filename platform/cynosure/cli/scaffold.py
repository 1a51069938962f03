"""`cynosure plugins new`: a working one-file plugin, its test, and its line in registry.yaml."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.machinery import PathFinder
from importlib.resources import files
from pathlib import Path
from string import Template

from cynosure.cli.checked import write_text
from cynosure.config.checks import TAKEN
from cynosure.config.yaml import Document, Key, load_yaml
from cynosure.errors import CynosureError, unknown
from cynosure.registry import load_registry, packaged_registry

TEMPLATES = {"task": ("task.py.txt", "task_test.py.txt")}


def create(name: str, kind: str, directory: Path) -> list[Path]:
    """Write `name`.py, its test and the registry entry; nothing that exists is overwritten."""
    if kind not in TEMPLATES:
        raise CynosureError(unknown("kind of template", kind, TEMPLATES))
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise CynosureError(f"'{name}' cannot be a plugin's name; use small letters, digits and _, like 'my_task'")
    registry = directory / "registry.yaml"
    if registry.resolve() == packaged_registry().resolve():
        raise CynosureError(
            f"{registry} is Cynosure's own and stays as it is; make a folder of your own: mkdir my-task && cd my-task"
        )
    if name in load_registry(registry if registry.is_file() else None).plugins:
        raise CynosureError(f"the registry has a plugin '{name}' already; choose another name")
    targets = [directory / f"{name}.py", directory / f"test_{name}.py"]
    for target in targets:
        if target.exists():
            raise CynosureError(f"{target} exists already; choose another name or move it away")
    if owner := _owner(name, kind):
        raise CynosureError(f"{owner} uses the name '{name}' itself: choose another one, like 'my_{name}'")
    entered = _enter(registry, name)
    words = {"name": name, "cls": "".join(word.capitalize() for word in name.split("_"))}
    for target, template in zip(targets, TEMPLATES[kind], strict=True):
        text = (files("cynosure.cli") / "templates" / template).read_text(encoding="utf-8")
        write_text(target, Template(text).substitute(words))
    return [*targets, entered]


def _owner(name: str, kind: str) -> str:
    """Who has a use of their own for a name, or ''. A file of a module's name would be imported in its place."""
    if kind == "task" and name in TAKEN:
        return "PyTorch"
    if name in sys.stdlib_module_names:
        return "Python"
    installed = PathFinder.find_spec(name)
    return "an installed package" if installed and installed.origin else ""


def _enter(registry: Path, name: str) -> Path:
    """Add the plugin to the project's registry without touching its other lines."""
    line = f"  {name}: {{path: ./{name}.py}}\n"
    if not registry.exists():
        write_text(registry, f"schema: 1\nplugins:\n{line}")
        return registry
    document = load_yaml(registry)
    lines = registry.read_text(encoding="utf-8").splitlines(keepends=True)
    plugins = document.data.get("plugins")
    if "plugins" not in document.data:
        lines.append(("" if lines[-1].endswith("\n") else "\n") + f"plugins:\n{line}")
    elif plugins and _row(document, ("plugins", next(iter(plugins)))) > _row(document, ("plugins",)):
        first = document.place(("plugins", next(iter(plugins))))
        indent = " " * (int(first.rpartition(":")[2]) - 1)
        lines.insert(_row(document, ("plugins", next(iter(plugins)))) - 1, indent + line.lstrip())
    else:
        raise CynosureError(f"write this below 'plugins:' in {registry}, one plugin a line: {line.strip()}")
    write_text(registry, "".join(lines))
    return registry


def _row(document: Document, key: Key) -> int:
    return int(document.place(key).split(":")[-2])
