"""Pydantic's validation errors as problems with a place, a key and a suggestion."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from cynosure.config.yaml import Key, dotted
from cynosure.errors import Problem, did_you_mean


def problems_of(
    error: ValidationError,
    model: type[BaseModel],
    at: Key = (),
    place: Callable[[Key], str] = lambda key: "",
    also: Iterable[str] = (),
) -> list[Problem]:
    """Every error of validating `model` under the key `at`; `also` are further keys that are allowed there."""
    found = []
    for each in error.errors(include_url=False):
        key = (*at, *each["loc"])
        found.append(Problem(place(key), dotted(key), _message(each, model, also)))
    return found


def by_place(problem: Problem) -> tuple[str, int, int, str, str]:
    """Sorts problems by file, line and column."""
    found = re.fullmatch(r"(.*):(\d+):(\d+)", problem.where)
    file, line, column = found.groups() if found else (problem.where, 0, 0)
    return file, int(line), int(column), problem.path, problem.message


def _message(error: Mapping[str, Any], model: type[BaseModel], also: Iterable[str]) -> str:
    loc, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        keys = [*keys_at(model, loc[:-1]), *(also if len(loc) == 1 else ())]
        return f"unknown key{did_you_mean(str(loc[-1]), keys) or '; known keys: ' + (', '.join(keys) or 'none')}"
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be a mapping of keys to values, not {error['input']!r}"
    text = str(error["msg"]).removeprefix("Value error, ")
    text = text.replace("Input should", "should", 1)
    given = error.get("input")
    shown = f", not {given!r}" if given is None or isinstance(given, bool | int | float | str) else ""
    return text + ("" if kind == "value_error" else shown)


def keys_at(model: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    """The keys that `model` accepts at a place inside it, as they are written in a file."""
    here: Any = model
    for part in loc:
        here = _child(here, part)
    return next((_names(each) for each in _alternatives(here) if _is_model(each)), [])


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _child(annotation: Any, part: str | int) -> Any:
    for each in _alternatives(annotation):
        if _is_model(each):
            for name, field in each.model_fields.items():
                if part in (name, field.alias):
                    return field.annotation
        elif get_args(each):
            return get_args(each)[-1] if isinstance(part, str) else get_args(each)[0]
    return None


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for arg in get_args(annotation) for each in _alternatives(arg)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
