"""The command line: global options, commands of Cynosure and of plugins, and errors as one sentence."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cynosure import __version__
from cynosure.errors import CynosureError

if TYPE_CHECKING:
    from cynosure.host import Host
    from cynosure.registry import Registry

COMMANDS = ("demo", "train", "predict", "generate", "codes", "evaluate", "convert", "export", "plugins", "recipes")
"""Modules of this folder in the order of the help; each adds its commands to the app with `add(app)`."""
FLAGS = ("--debug", "--strict-plugins", "--trace-hooks")


@dataclass
class Settings:
    """The global options of one call, and its host once it is needed."""

    debug: bool = False
    registry: Path | None = None
    strict_plugins: bool = False
    trace_hooks: bool = False
    host: Host | None = None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cynosure {__version__}")
        raise typer.Exit


def options(
    context: typer.Context,
    registry: Annotated[
        Path | None,
        typer.Option(help="the project's registry.yaml [default: ./registry.yaml]", envvar="CYNOSURE_REGISTRY"),
    ] = None,
    strict_plugins: Annotated[
        bool, typer.Option("--strict-plugins", help="stop when any plugin fails to load")
    ] = False,
    trace_hooks: Annotated[bool, typer.Option("--trace-hooks", help="print every hook call")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Vision tasks as plugins, one guided model for many of them."""
    context.obj = Settings(debug, registry, strict_plugins, trace_hooks)


def create_app() -> typer.Typer:
    """The application with Cynosure's own commands."""
    app = typer.Typer(
        name="cynosure",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich takes a quarter of the time of `cynosure --help`
        context_settings={"max_content_width": 120},
        callback=options,
    )
    for name in COMMANDS:
        import_module(f"cynosure.cli.{name}").add(app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """The `cynosure` command. Exits with 2 for what the user can put right, with 1 for anything else."""
    given = globals_first(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows no "·" is no reason to fail
    try:
        app = create_app()
        _add_plugin_commands(app, given)
        app(given, prog_name="cynosure")
    except CynosureError as error:
        _stop(error, str(error), given, error.exit_code)
    except Exception as error:
        notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
        _stop(error, f"{type(error).__name__}: {error}{notes}; run again with --debug to see where", given, 1)


def globals_first(arguments: Sequence[str]) -> list[str]:
    """Global options may stand anywhere on the line, as in `cynosure train depth/tiny --debug`."""
    front: list[str] = []
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            return [*front, *rest, word, *waiting]
        if word == "--registry" and waiting:
            front += [word, waiting.pop(0)]
        elif word in FLAGS or word.startswith("--registry="):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def registry_of(context: typer.Context) -> Registry:
    """The registry that this call uses; imports no plugin."""
    from cynosure.registry import load_registry

    return load_registry(context.find_root().obj.registry)


def host_of(context: typer.Context) -> Host:
    """The plugins of this call, loaded on first use; what failed is said on the error stream."""
    from cynosure.host import describe, load_host

    settings: Settings = context.find_root().obj
    if settings.host is None:
        settings.host = load_host(settings.registry, strict=settings.strict_plugins)
        for failure in settings.host.failures:
            warn(describe(failure))
        if settings.trace_hooks:
            settings.host.trace(lambda line: typer.echo(line, err=True))
    return settings.host


def warn(text: str) -> None:
    typer.secho(text, fg=typer.colors.YELLOW, err=True)


def _add_plugin_commands(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Load those plugins, and only those, whose source adds commands."""
    from cynosure.discovery import plugins_with
    from cynosure.registry import load_registry

    registry = load_registry(_given_registry(arguments))
    if names := plugins_with("cynosure_commands", registry):
        from cynosure.host import describe, load_host

        host = load_host(registry, only=names)
        for failure in host.failures:
            warn(describe(failure))
        host.commands(app)


def _given_registry(arguments: Sequence[str]) -> Path | None:
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--registry":
            return Path(following)
        if word.startswith("--registry="):
            return Path(word.partition("=")[2])
    return None


def _stop(error: Exception, message: str, arguments: Sequence[str], code: int) -> None:
    if "--debug" in arguments:
        traceback.print_exception(error)
    else:
        typer.secho(message, fg=typer.colors.RED, err=True)
    sys.stdout.flush()
    raise SystemExit(code)
