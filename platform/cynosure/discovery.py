"""What a plugin offers, read from its source: nothing is imported, so listing is fast and runs no plugin code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from cynosure.components import KINDS
from cynosure.errors import PluginError
from cynosure.registry import PluginEntry, Registry, find_entry_point


@dataclass(frozen=True)
class PluginSource:
    """A plugin as its source describes it. `error` says why the source cannot be read, or is ''."""

    name: str
    file: Path | None = None
    summary: str = ""
    version: str = ""
    hooks: tuple[str, ...] = ()
    components: tuple[tuple[str, str], ...] = ()
    error: str = ""


def survey(registry: Registry) -> dict[str, PluginSource]:
    """Every plugin of the registry, disabled ones included."""
    return {name: inspect_plugin(name, entry, registry.group) for name, entry in registry.plugins.items()}


def inspect_plugin(name: str, entry: PluginEntry, group: str) -> PluginSource:
    """Read one plugin's source. Never raises: what is wrong is in `error`."""
    file = None
    try:
        file = locate(entry, group)
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (PluginError, OSError, SyntaxError, ValueError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        return PluginSource(name, file, error=message + line)
    docstring = ast.get_docstring(tree) or ""
    return PluginSource(
        name,
        file,
        summary=docstring.split("\n", 1)[0],
        version=_constant(tree, "__version__"),
        hooks=tuple(_hooks(tree)),
        components=tuple(_components(tree)),
    )


def plugins_with(hook: str, registry: Registry) -> list[str]:
    """Enabled plugins whose source implements `hook`."""
    found = []
    for name, entry in registry.enabled():
        try:
            mentions = hook.encode() in locate(entry, registry.group).read_bytes()
        except (PluginError, OSError):
            continue
        if mentions and hook in inspect_plugin(name, entry, registry.group).hooks:
            found.append(name)
    return found


def locate(entry: PluginEntry, group: str) -> Path:
    """The plugin's source file; raises PluginError when there is none."""
    if entry.path:
        file = entry.path / "__init__.py" if entry.path.is_dir() else entry.path
        if not file.is_file():
            raise PluginError(f"there is no file {file}, correct 'path'")
        return file
    if entry.module:
        return find_module(entry.module)
    return find_module(find_entry_point(group, str(entry.entry_point)).module)


def find_module(module: str) -> Path:
    """The file of an importable module, without importing it or the packages around it."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    name = top
    for part in rest:
        if spec is None:
            break
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations or [])
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise PluginError(f"there is no module '{module if spec else name}', install or correct it")
    return Path(spec.origin)


def package_folder(entry: PluginEntry, group: str) -> Path | None:
    """The folder of the plugin's top package (or of the path plugin's file), where its recipes lie."""
    if entry.path:
        return entry.path.parent if entry.path.is_file() else entry.path
    module = entry.module or find_entry_point(group, str(entry.entry_point)).module
    spec = find_spec(module.partition(".")[0])
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) if folders else None


def _hooks(tree: ast.Module) -> Iterator[str]:
    """Functions under `@hookimpl`, by the hook they implement."""
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for decorator in function.decorator_list:
            marker = decorator.func if isinstance(decorator, ast.Call) else decorator
            if _last_name(marker) == "hookimpl":
                keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
                yield next((_text(each.value) for each in keywords if each.arg == "specname"), function.name)


def _components(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What the functions of a module register; classes, most of a plugin's source, are not read."""
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    for node in (node for function in functions for node in ast.walk(function)):
        match node:
            case ast.Call(func=ast.Attribute(value=owner, attr=kind), args=[ast.Constant(value=str(name)), *_]):
                if kind in KINDS and _last_name(owner) == "register":
                    yield kind, name


def _constant(tree: ast.Module, name: str) -> str:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(_last_name(target) == name for target in node.targets):
            return _text(node.value)
    return ""


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
