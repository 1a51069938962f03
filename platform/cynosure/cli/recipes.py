"""`cynosure recipes`: list, show and copy recipes, and their JSON schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cynosure.cli.app import host_of, registry_of
from cynosure.cli.checked import check_output, write_text
from cynosure.cli.text import table
from cynosure.errors import CynosureError


def add(app: typer.Typer) -> None:
    recipes = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show and copy recipes.")
    recipes.command("list")(list_recipes)
    recipes.command("show")(show)
    recipes.command("copy")(copy)
    recipes.command("schema")(schema)
    app.add_typer(recipes, name="recipes")


def list_recipes(context: typer.Context) -> None:
    """All recipes of the enabled plugins."""
    from cynosure.config.shelf import find_recipes

    found = find_recipes(registry_of(context))
    typer.echo(table([(info.name, info.summary) for info in found]) or "no enabled plugin brings a recipe")


def show(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="a recipe's name or file")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="override a value: --set train.codes.lr=1e-4")] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="merged and checked, with every default")] = False,
) -> None:
    """A recipe as it is written, or as a run would use it."""
    if resolved or sets:
        from cynosure.config.recipe import load_recipe

        typer.echo(load_recipe(recipe, sets or [], host_of(context)).to_yaml(), nl=False)
    else:
        from cynosure.config.recipe import resolve

        typer.echo(resolve(recipe, registry_of(context)).read_text(encoding="utf-8"), nl=False)


def copy(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="a recipe's name")],
    file: Annotated[Path | None, typer.Argument(help="where to [default: ./TASK-SIZE.yaml]")] = None,
) -> None:
    """Copy a recipe to change it."""
    from cynosure.config.recipe import resolve

    source = resolve(recipe, registry_of(context))
    target = file or Path(f"{source.parent.name}-{source.name}")
    if target.exists():
        raise CynosureError(f"{target} exists already; name another file")
    write_text(target, source.read_text(encoding="utf-8"))
    typer.echo(f"copied: {target}\nnext:   cynosure train {target}")


def schema(
    context: typer.Context,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write to a file")] = None,
) -> None:
    """The JSON schema of recipes, with the options of every component, for editors."""
    from cynosure.config.editor import json_schema

    if output:
        check_output(output)
    text = json.dumps(json_schema(host_of(context)), indent=2)
    if output:
        write_text(output, text + "\n")
    typer.echo(f"wrote {output}" if output else text)
