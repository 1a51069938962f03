"""The recipes that plugins bring: a folder `recipes/` beside each plugin's package, by '<task>/<size>'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cynosure.discovery import package_folder
from cynosure.errors import CynosureError, PluginError, unknown
from cynosure.registry import Registry


@dataclass(frozen=True)
class RecipeInfo:
    """A recipe's name, its file, and the first line of the comment on top."""

    name: str
    path: Path
    summary: str


def find_recipes(registry: Registry) -> list[RecipeInfo]:
    """Recipes of all enabled plugins, sorted by name; of two with one name the earlier plugin's counts."""
    folders: dict[Path, None] = {}
    for _, entry in registry.enabled():
        try:
            folder = package_folder(entry, registry.group)
        except PluginError:
            continue
        if folder:
            folders[folder / "recipes"] = None
    found: dict[str, RecipeInfo] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.setdefault(name, RecipeInfo(name, path, _summary(path)))
    return sorted(found.values(), key=lambda info: info.name)


def find_recipe(registry: Registry, name: str) -> RecipeInfo:
    """The recipe called `name`; raises CynosureError that lists what exists."""
    recipes = {info.name: info for info in find_recipes(registry)}
    if name not in recipes:
        raise CynosureError(unknown("recipe", name, recipes))
    return recipes[name]


def _summary(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as lines:
        first = next(lines, "").strip()
    return first.removeprefix("#").strip() if first.startswith("#") else ""
