"""`cynosure plugins`: list, show, create and check plugins."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cynosure.cli.app import registry_of
from cynosure.cli.checked import write_text
from cynosure.cli.text import table
from cynosure.errors import CynosureError, PluginError

if TYPE_CHECKING:
    from cynosure.discovery import PluginSource
    from cynosure.host import Host
    from cynosure.registry import PluginEntry


def add(app: typer.Typer) -> None:
    plugins = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show, create and check plugins.")
    plugins.command("list")(list_plugins)
    plugins.command("show")(show)
    plugins.command("new")(new)
    plugins.command("check")(check)
    plugins.command("schema")(schema)
    app.add_typer(plugins, name="plugins")


def list_plugins(
    context: typer.Context,
    load: Annotated[bool, typer.Option("--load", help="import the plugins, to see which ones fail")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """All plugins of the registry, in loading order. Reads their source only, unless --load."""
    from cynosure.discovery import survey

    registry = registry_of(context)
    failed = {failure.name: failure.error for failure in _load(context).failures} if load else {}
    found = []
    for name, source in survey(registry).items():
        entry, error = registry.plugins[name], failed.get(name, source.error)
        status = "off" if not entry.enabled else "failed" if error else "on"
        found.append((source, entry, status, error if entry.enabled else ""))
    if as_json:
        typer.echo(json.dumps([_record(*each) for each in found], indent=2))
        return
    rows = [("PLUGIN", "STATE", "PROVIDES", "SUMMARY")]
    for source, _, status, error in found:
        rows.append((source.name, status, _provides(source), error.replace("\n", "; ") or source.summary))
    typer.echo(table(rows))


def show(context: typer.Context, name: Annotated[str, typer.Argument(help="the plugin's name")]) -> None:
    """One plugin: where it is, what it provides, and the options of its components."""
    from cynosure.discovery import inspect_plugin

    registry = registry_of(context)
    entry = registry.plugin(name)
    source = inspect_plugin(name, entry, registry.group)
    typer.echo(f"{name}: {source.summary}" if source.summary else name)
    facts = [("source", entry.source), ("file", str(source.file or "not found")), ("hooks", ", ".join(source.hooks))]
    facts += [("enabled", "yes" if entry.enabled else "no")]
    facts += [("options", json.dumps(entry.options))] if entry.options else []
    typer.echo(table([(f"  {key}", value) for key, value in facts]))
    if source.error:
        raise PluginError(f"plugin '{name}': {source.error}")
    if entry.enabled:
        _show_components(_loaded(context, name))


def new(
    name: Annotated[str, typer.Argument(help="the plugin's name, a Python identifier")],
    kind: Annotated[str, typer.Option(help="what to create; 'task' for now")] = "task",
    directory: Annotated[Path, typer.Option("--directory", "-d", help="where to write")] = Path("."),
) -> None:
    """Write a working one-file plugin with its test, and enter it in ./registry.yaml."""
    from cynosure.cli.scaffold import create

    created = create(name, kind, directory)
    typer.echo("\n".join(f"wrote:  {path}" for path in created))
    there = f"cd {shlex.quote(str(directory))} && " if directory.resolve() != Path.cwd() else ""
    typer.echo(f"next:   {there}cynosure plugins check {name}")


def check(context: typer.Context, name: Annotated[str, typer.Argument(help="the plugin's name")]) -> None:
    """Load a plugin and put each of its components through the conformance checks."""
    from cynosure.components import KINDS
    from cynosure.testing import check_component

    host = _loaded(context, name, alone=False)
    owned = [(kind, each) for kind in KINDS for each in host.components.names(kind)]
    owned = [(kind, each) for kind, each in owned if host.components.owner(kind, each) == name]
    failed = 0
    for kind, component in owned:
        typer.echo(f"{kind} {component}")
        for result in check_component(host, kind, component):
            failed += not result.ok
            mark = "ok" if result.ok else "FAIL"
            typer.echo(f"  {mark:<4}  {result.check}{': ' + result.message if result.message else ''}")
    if failed:
        raise CynosureError(f"plugin '{name}' fails {failed} check{'s' if failed > 1 else ''}")
    typer.echo(f"plugin '{name}' loads" + (" and passes every check" if owned else "; it registers no component"))


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write to a file")] = None,
) -> None:
    """The JSON schema of registry.yaml, for editors."""
    from cynosure.registry import registry_schema

    text = json.dumps(registry_schema(), indent=2)
    if output:
        write_text(output, text + "\n")
    typer.echo(f"wrote {output}" if output else text)


def _loaded(context: typer.Context, name: str, alone: bool = True) -> Host:
    """A host in which the plugin `name` is loaded; raises PluginError with all that keeps it from loading."""
    registry = registry_of(context)
    if not registry.plugin(name).enabled:
        raise PluginError(f"plugin '{name}' is off; set 'enabled: true' in registry.yaml")
    host = _load(context, name if alone else None)
    for failure in host.failures:
        if failure.name == name:
            trace = f"{failure.traceback_text}\n" if context.find_root().obj.debug else ""
            raise PluginError(f"{trace}plugin '{name}' failed ({failure.stage}):\n{failure.error}")
    return host


def _load(context: typer.Context, only: str | None = None) -> Host:
    from cynosure.host import load_host

    return load_host(registry_of(context), only=None if only is None else [only])


def _show_components(host: Host) -> None:
    from cynosure.components import KINDS

    for kind in KINDS:
        for component, cls in host.components.items(kind):
            typer.echo(f"\n{kind} {component}")
            fields: dict[str, Any] = cls.Config.model_fields
            rows = [
                (
                    f"  {option}",
                    "required" if field.is_required() else repr(field.get_default()),
                    field.description or "",
                )
                for option, field in fields.items()
            ]
            typer.echo(table(rows) or "  no options")


def _provides(source: PluginSource) -> str:
    hooks = [hook.removeprefix("cynosure_") for hook in source.hooks if hook != "cynosure_register"]
    return ", ".join([f"{kind} {name}" for kind, name in source.components] + [f"hook {hook}" for hook in hooks])


def _record(source: PluginSource, entry: PluginEntry, status: str, error: str) -> dict[str, Any]:
    return {
        "name": source.name,
        "state": status,
        "source": entry.source,
        "file": str(source.file) if source.file else None,
        "summary": source.summary,
        "hooks": list(source.hooks),
        "components": [list(each) for each in source.components],
        "error": error,
    }
