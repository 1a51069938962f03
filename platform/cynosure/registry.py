"""registry.yaml: which plugins exist and are trusted, in which order they load, and named task mixtures.

The packaged registry comes first. A project's registry (`--registry`, CYNOSURE_REGISTRY, or ./registry.yaml) adds
entries or overrides them by name, then come the entry points of installed packages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from cynosure.config.problems import by_place, problems_of
from cynosure.config.yaml import Document, load_yaml, merge, show_path
from cynosure.errors import ConfigError, CynosureError, PluginError, Problem, did_you_mean, unknown

GROUP = "cynosure.plugins"
SOURCES = ("module", "path", "entry_point")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PluginEntry(Strict):
    """One plugin: where its code is, and whether it is wanted."""

    module: str | None = Field(None, description="dotted name of an importable module")
    path: Path | None = Field(None, description="a Python file or package folder, relative to the registry file")
    entry_point: str | None = Field(None, description="name of an entry point of an installed package")
    enabled: bool = True
    version: str | None = Field(None, description="version that is required, such as '1.2' or '>=1.2,<2'")
    options: dict[str, Any] = Field({}, description="handed to the plugin as register.options")

    @property
    def source(self) -> str:
        """Where the code is, for people to read."""
        if self.path:
            return show_path(self.path)
        return self.module or f"entry point {self.entry_point}"


class Discovery(Strict):
    """Which entry points of installed packages load on their own."""

    entry_points: str = Field(GROUP, description="the entry-point group")
    allow: list[str] | None = Field(None, description="only these names; null allows every name")
    deny: list[str] = Field([], description="never these names")

    def trusts(self, name: str) -> bool:
        return name not in self.deny and (self.allow is None or name in self.allow)


class Mixture(Strict):
    """Tasks that train together, and how often each is drawn."""

    tasks: dict[str, PositiveFloat] = Field(min_length=1, description="task name -> weight")


class RegistryFile(Strict):
    """The schema of registry.yaml."""

    version: Literal[1] = Field(1, alias="schema")
    discovery: Discovery = Discovery()
    plugins: dict[str, PluginEntry] = {}
    mixtures: dict[str, Mixture] = {}


@dataclass(frozen=True)
class Registry:
    """All registries as one. `plugins` are in loading order, disabled ones included."""

    plugins: Mapping[str, PluginEntry]
    mixtures: Mapping[str, Mixture] = field(default_factory=dict)
    group: str = GROUP
    files: tuple[Path, ...] = ()
    builtin: frozenset[str] = frozenset()
    """Plugins that come with Cynosure itself."""

    def enabled(self) -> Iterator[tuple[str, PluginEntry]]:
        return ((name, entry) for name, entry in self.plugins.items() if entry.enabled)

    def plugin(self, name: str) -> PluginEntry:
        if name not in self.plugins:
            raise CynosureError(unknown("plugin", name, self.plugins))
        return self.plugins[name]


def load_registry(project: Path | None = None) -> Registry:
    """The packaged registry, the project's and installed entry points; raises ConfigError with every mistake."""
    files = [packaged_registry()]
    project = project or find_project_registry()
    if project and project.resolve() != files[0].resolve():
        files.append(project)
    problems: list[Problem] = []
    packaged = document = _read(files[0], problems)
    for file in files[1:]:
        document = merge(document, _read(file, problems))
    content = _validate(document, problems)
    plugins = {**content.plugins, **_discovered(content)}
    disabled = [name.strip() for name in os.environ.get("CYNOSURE_DISABLE", "").split(",") if name.strip()]
    for name in disabled:
        if name not in plugins:
            raise CynosureError(f"CYNOSURE_DISABLE: {unknown('plugin', name, plugins)}")
        plugins[name] = plugins[name].model_copy(update={"enabled": False})
    own = {name: entry["module"] for name, entry in packaged.data["plugins"].items() if entry.get("module")}
    builtin = frozenset(name for name, module in own.items() if plugins[name].module == module)
    return Registry(plugins, content.mixtures, content.discovery.entry_points, tuple(files), builtin)


def registry_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of registry.yaml, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **RegistryFile.model_json_schema(by_alias=True),
    }


def packaged_registry() -> Path:
    """registry.yaml inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "registry.yaml"
    return inside if inside.is_file() else package.parents[1] / "registry.yaml"


def find_project_registry() -> Path | None:
    """The file named by CYNOSURE_REGISTRY, else ./registry.yaml when there is one."""
    if named := os.environ.get("CYNOSURE_REGISTRY"):
        return Path(named)
    here = Path("registry.yaml")
    return here if here.is_file() else None


def entry_points(group: str) -> dict[str, metadata.EntryPoint]:
    """Installed entry points by 'package:name', sorted, so that their order does not depend on the file system."""
    points = metadata.entry_points(group=group)
    return dict(sorted((f"{each.dist.name if each.dist else each.module}:{each.name}", each) for each in points))


def find_entry_point(group: str, name: str) -> metadata.EntryPoint:
    """The entry point called `name`, or 'package:name' where several packages use one name."""
    points = entry_points(group)
    matches = [key for key in points if name in (key, key.partition(":")[2])]
    if len(matches) > 1:
        raise PluginError(f"several packages offer the entry point '{name}', write one of: {', '.join(matches)}")
    if not matches:
        raise PluginError(f"no installed package has it: {unknown(f'entry point in group {group}', name, points)}")
    return points[matches[0]]


def _read(file: Path, problems: list[Problem]) -> Document:
    """One registry file, its relative plugin paths resolved against its own folder."""
    document = load_yaml(file, problems)
    if not isinstance(document.data, Mapping):
        what = "is empty" if document.data is None else "is not a mapping"
        raise ConfigError([*problems, Problem(show_path(file), "", f"{what}, write at least 'schema: 1'")])
    plugins = document.data.get("plugins")
    for entry in plugins.values() if isinstance(plugins, Mapping) else ():
        if isinstance(entry, dict):
            if isinstance(entry.get("path"), str):
                entry["path"] = str((file.parent / Path(entry["path"]).expanduser()).resolve())
            if any(source in entry for source in SOURCES):  # another source replaces the one it overrides
                for source in SOURCES:
                    if source not in entry:
                        entry[source] = None
    return document


def _validate(document: Document, problems: list[Problem]) -> RegistryFile:
    """The document as a registry; raises ConfigError with `problems` and all that is found here."""
    problems = [*problems, *_source_problems(document)]
    try:
        content = RegistryFile.model_validate(document.data)
    except ValidationError as error:
        problems += problems_of(error, RegistryFile, place=document.place)
    if problems:
        raise ConfigError(sorted(problems, key=by_place))
    return content


def _source_problems(document: Document) -> Iterator[Problem]:
    """Plugins without a source, or with several."""
    plugins = document.data.get("plugins")
    for name, entry in plugins.items() if isinstance(plugins, Mapping) else ():
        if not isinstance(entry, Mapping):
            continue
        sources = [source for source in SOURCES if entry.get(source)]
        if len(sources) != 1:
            others = [other for other in plugins if other != name]
            message = f"needs exactly one of {', '.join(SOURCES)}"
            message += f", not {' and '.join(sources)}" if sources else did_you_mean(name, others)
            yield Problem(document.place(("plugins", name)), f"plugins.{name}", message)


def _discovered(content: RegistryFile) -> dict[str, PluginEntry]:
    """Trusted entry points that no entry names, itself or its module. One whose name is in use is called
    'package:name'."""
    named = {entry.entry_point for entry in content.plugins.values()}
    modules = {entry.module for entry in content.plugins.values()}
    found: dict[str, PluginEntry] = {}
    for full, point in entry_points(content.discovery.entry_points).items():
        if named.isdisjoint((full, point.name)) and point.value not in modules and content.discovery.trusts(point.name):
            taken = point.name in content.plugins or point.name in found
            found[full if taken else point.name] = PluginEntry(entry_point=full, module=None)
    return found
