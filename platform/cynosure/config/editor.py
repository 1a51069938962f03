"""JSON schema of recipes for editors, with the options of every loaded component."""

from __future__ import annotations

from typing import Any

from cynosure.components import PARTS_OF
from cynosure.config.checks import KEY
from cynosure.config.recipe import Recipe
from cynosure.host import Host

USED_IN = ("dataset", "tokenizer", "quantizer", "base", "prior", "encoder", "criterion")


def json_schema(host: Host) -> dict[str, Any]:
    """JSON schema (2020-12) of a recipe file; components are told apart by their `name`."""
    schema = Recipe.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    for kind in USED_IN:
        names = host.components.names(kind)
        for name in names:
            definitions[f"{kind}.{name}"] = _component(host, kind, name)
        definitions[kind] = {"anyOf": [{"enum": names}, *({"$ref": f"#/$defs/{kind}.{name}"} for name in names)]}
    for name in host.components.names("task"):
        definitions[f"task.{name}"] = _options(host, "task", name)
    definitions["TaskUse"]["required"] = ["data"]
    definitions["TaskUse"]["allOf"] = [
        {
            "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
            "then": {"$ref": f"#/$defs/task.{name}"},
        }
        for name in host.components.names("task")
    ]
    model = definitions["Model"]["properties"]
    for kind in ("tokenizer", "prior"):
        model[kind] = {"anyOf": [{"$ref": f"#/$defs/{kind}"}, {"type": "null"}], "default": None}
    model["criteria"] = {
        "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/criterion"}}, {"type": "null"}],
        "default": None,
    }
    model["base"] = {"$ref": "#/$defs/base"}
    schema["properties"]["data"]["additionalProperties"] = {"$ref": "#/$defs/dataset"}
    for section in ("data", "tasks"):
        schema["properties"][section]["propertyNames"] = {"pattern": f"^{KEY}$"}
    schema["properties"]["base"] = {"type": "string", "description": "the recipe to start from, by name or file"}
    schema["required"] = []
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _options(host: Host, kind: str, name: str) -> dict[str, Any]:
    """The schema of a component's `Config`, its own definitions inside it."""
    config: Any = host.components.get(kind, name).Config
    schema = config.model_json_schema(ref_template=f"#/$defs/{kind}.{name}/$defs/{{model}}")
    schema.pop("required", None)  # a base recipe, or the dataset of a task, may give them
    if kind == "task":
        schema.pop("additionalProperties", None)
    return schema


def _component(host: Host, kind: str, name: str) -> dict[str, Any]:
    schema = _options(host, kind, name)
    properties = {"name": {"const": name}, **schema.get("properties", {})}
    for option, inner in PARTS_OF.get(kind, {}).items():
        properties[option] = {"$ref": f"#/$defs/{inner}"}
    return {**schema, "properties": properties, "required": ["name"]}
