"""YAML that remembers where every value stands.

Plain scalars follow YAML 1.2, so `1e-4` is a number and `no` is a word; duplicate keys are errors; tags are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cynosure.errors import ConfigError, Problem

Key = tuple[str | int, ...]
"""The way to a value from the top of a document, e.g. ("train", "codes", "lr")."""

_STR, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN\0"),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    _MERGE: (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes the words that YAML 1.1 would read as something else, as ever, and those that `_Loader` would: `08`."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """In quotes where characters that end lines for YAML alone would be read as spaces."""
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)
for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first])


@dataclass
class Document:
    """Plain data, and for every key the place where it was written."""

    data: Any
    places: dict[Key, str] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """Where `key` is written, or the nearest key around it that is."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, "")


def load_yaml(path: Path, problems: list[Problem] | None = None) -> Document:
    """Read a YAML file as `parse_yaml` does; raises ConfigError also when it cannot be read."""
    shown = show_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError([Problem(shown, "", "is not a text file, save it as UTF-8")]) from None
    except OSError as error:
        raise ConfigError([Problem(shown, "", f"cannot be read: {error.strerror or error}")]) from None
    return parse_yaml(text, shown, problems)


def parse_yaml(text: str, name: str, problems: list[Problem] | None = None) -> Document:
    """Parse YAML text; `name` is what places call it.

    Raises ConfigError when it is not YAML. Values that are refused, such as a key given twice, are left out and added
    to `problems`, so that they can be reported with all that is wrong besides; without that list they are raised.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError([Problem(where, "", f"is not valid YAML: {error.problem or error.context}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(name, "", f"is not valid YAML: {error}".splitlines()[0])]) from None
    if node is None:
        return Document(None, {(): f"{name}:1:1"})
    reader = _Reader(name)
    document = Document(reader.read(node, (), ()), reader.places)
    if problems is not None:
        problems += reader.problems
    elif reader.problems:
        raise ConfigError(reader.problems)
    return document


class _Reader:
    """Turns YAML nodes into plain data and notes the place of every key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[Key, str] = {(): f"{name}:1:1"}
        self.problems: list[Problem] = []

    def read(self, node: yaml.Node, path: Key, inside: tuple[int, ...]) -> Any:
        if id(node) in inside:
            return self._refuse(node, path, "contains itself, remove the alias")
        inside = (*inside, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, inside)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(each, (*path, i), inside) for i, each in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Key, inside: tuple[int, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        own: dict[str, yaml.Node] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, path, "a key must be a word")
                continue
            name = str(key.value)
            if name in own:
                first = own[name].start_mark.line + 1
                self._refuse(key, (*path, name), f"is given twice, first in line {first}; keep one")
                continue
            own[name] = key
            self.places[(*path, name)] = self._at(key)
            data[name] = self.read(value, (*path, name), inside)
        for each in merged:
            if not isinstance(each, yaml.MappingNode):
                self._refuse(each, path, "'<<' merges mappings only")
                continue
            known = dict(self.places)
            for name, value in self.read(each, path, inside).items():
                data.setdefault(name, value)
            self.places |= known
        return data

    def _item(self, node: yaml.Node, path: Key, inside: tuple[int, ...]) -> Any:
        self.places[path] = self._at(node)
        return self.read(node, path, inside)

    def _scalar(self, node: yaml.Node, path: Key) -> Any:
        text = node.value
        kind = node.tag.rpartition(":")[2]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("int", "float"):
            try:
                return _number(kind, text)
            except ValueError:
                return self._refuse(node, path, f"'{text}' is no {kind}")
        if node.tag in (_STR, _MERGE):
            return text
        return self._refuse(node, path, f"the tag {node.tag} is not allowed, write a plain value")

    def _at(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def _refuse(self, node: yaml.Node, path: Key, message: str) -> None:
        self.problems.append(Problem(self._at(node), dotted(path), message))


def _number(kind: str, text: str) -> int | float:
    if kind == "float":
        return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    return int(text, 16) if text.startswith("0x") else int(text.replace("_", ""))


def dump_yaml(data: Any) -> str:
    """Plain data as YAML, in its own order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


NAMED = (("model",), ("data",))
"""Sections of a recipe in which a text is the name of a component."""


def merge(base: Document, over: Document) -> Document:
    """`over` laid on `base`: mappings key by key, everything else replaced.

    A mapping whose `name` changes replaces the other whole, because it describes another component; a model's part or
    a data set that is a bare name below gets options from a mapping without one.
    """
    places: dict[Key, str] = {}

    def both(low: Any, high: Any, path: Key) -> Any:
        if path in over.places:
            places[path] = over.places[path]
        if path[:1] in NAMED and isinstance(low, str) and isinstance(high, Mapping) and "name" not in high:
            low = {"name": low}
        if not (isinstance(low, Mapping) and isinstance(high, Mapping)) or _renamed(low, high):
            places.update({key: at for key, at in over.places.items() if key[: len(path)] == path})
            return high
        merged = {}
        for key in [*low, *(key for key in high if key not in low)]:
            child = (*path, key)
            if key in high:
                merged[key] = both(low.get(key), high[key], child)
            else:
                merged[key] = low[key]
                places.update({k: at for k, at in base.places.items() if k[: len(child)] == child})
        return merged

    return Document(both(base.data, over.data, ()), places)


def _renamed(low: Mapping[str, Any], high: Mapping[str, Any]) -> bool:
    return "name" in low and "name" in high and low["name"] != high["name"]


def dotted(path: Key) -> str:
    return ".".join(str(part) for part in path)


def show_path(path: Path) -> str:
    """`path` as short as it can be understood: relative when it lies under the current folder."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def walk(data: Any, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every value of nested mappings and lists with its key, outermost first."""
    yield path, data
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from walk(value, (*path, key))
