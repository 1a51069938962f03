"""A recipe says one run: data, tasks, model parts, training stages, evaluation. Loaded, merged, checked as a whole.

`base:` names another recipe to start from. Mappings merge key by key, lists and scalars are replaced, a component whose
`name` changes is replaced whole, and null takes a task or dataset of the base out.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cynosure.components import PARTS_OF, own_options
from cynosure.config.checks import CHECKS
from cynosure.config.problems import by_place, problems_of
from cynosure.config.schema import RecipeFields, TaskUse
from cynosure.config.shelf import find_recipe
from cynosure.config.yaml import Document, Key, dotted, dump_yaml, load_yaml, merge, parse_yaml, show_path, walk
from cynosure.errors import ConfigError, CynosureError, Problem, unknown
from cynosure.registry import Registry, load_registry

if TYPE_CHECKING:
    from cynosure.host import Host


class Recipe(RecipeFields):
    """One run, validated. Made by `load_recipe`."""

    def to_yaml(self) -> str:
        """The whole recipe with every default filled in; loading it again gives an equal recipe."""
        return dump_yaml(self._plain())

    def digest(self) -> str:
        """16 hex digits that two recipes share only when they are equal."""
        return hashlib.sha256(json.dumps(self._plain(), sort_keys=True).encode()).hexdigest()[:16]

    def with_task_options(self, options: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """The recipe with the tasks' own options replaced, by task key."""
        tasks = {}
        for key, use in self.tasks.items():
            kept = {name: getattr(use, name) for name in TaskUse.model_fields}
            tasks[key] = TaskUse(**{**kept, **options.get(key, use.options)})
        return self.model_copy(update={"tasks": tasks})

    def with_values(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with some values replaced, by dotted key as in `--set`; checked again."""
        document, problems = Document(self._plain()), list[Problem]()
        for key, value in values.items():
            document = _with_value(document, key.split("."), value, key, problems)
        return _validated(document, problems)

    def _plain(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def load_recipe(source: str | Path, sets: Sequence[str] = (), host: Host | None = None) -> Recipe:
    """The recipe in a file, or by a name such as 'depth/tiny', with `--set` values such as 'train.codes.lr=1e-4'.

    With a host, options of components are checked too. Raises ConfigError with every mistake found.
    """
    registry = host.registry if host else load_registry()
    problems: list[Problem] = []
    document = _with_bases(resolve(source, registry), registry, (), problems)
    return _completed(document, sets, registry, host, problems)


def make_recipe(data: Mapping[str, Any], sets: Sequence[str], host: Host) -> Recipe:
    """The recipe that plain data say, checked and completed as that of a file by `load_recipe`."""
    return _completed(Document(copy.deepcopy(dict(data))), sets, host.registry, host, [])


def _completed(
    document: Document, sets: Sequence[str], registry: Registry, host: Host | None, problems: list[Problem]
) -> Recipe:
    for text in sets:
        document = _with_set(document, text, problems)
    _drop_nulls(document.data)
    _apply_mixture(document, registry, problems)
    if host:
        problems += list(_component_problems(document, host))
    return _validated(document, problems)


REMOVABLE = {"tasks": "task", "data": "data set"}
"""Sections of which null takes a member away, and what that is."""
_AROUND = {
    ("train", name)
    for name in ("workers", "log_every", "save_every", "eval_every", "keep", "trackers", "checkpointing")
}
"""Settings that do not change what is trained."""


def differences(text: str, recipe: Recipe) -> list[str]:
    """Dotted keys in which a resolved recipe, as YAML text, trains differently than `recipe`. Data that lay in a place
    that is gone, and lie in one that is there, have moved, which is no difference."""
    old = {key: value for key, value in walk(parse_yaml(text, "recipe").data) if not isinstance(value, dict)}
    new = {key: value for key, value in walk(recipe._plain()) if not isinstance(value, dict)}
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    changed = {key for key in changed if not (key[0] == "data" and _moved(old.get(key), new.get(key)))}
    trains = [key for key in changed if key[:1] != ("eval",) and key[:2] not in _AROUND]
    return sorted({dotted(tuple(part for part in key if isinstance(part, str))) for key in trains})


def _moved(old: object, new: object) -> bool:
    return isinstance(old, str) and isinstance(new, str) and not Path(old).exists() and Path(new).exists()


def resolve(source: str | Path, registry: Registry) -> Path:
    """The file of a recipe given by path or by name; raises CynosureError that lists what exists."""
    path = Path(source)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml"):
        raise CynosureError(f"there is no recipe file {path}; `cynosure recipes list` shows the recipes by name")
    return find_recipe(registry, str(source)).path


def _with_bases(path: Path, registry: Registry, seen: tuple[Path, ...], problems: list[Problem]) -> Document:
    """The document of a recipe file laid on its bases; `problems` collects what keeps none of them from being read."""
    document = load_yaml(path, problems)
    if not isinstance(document.data, dict):
        what = "is empty" if document.data is None else "is not a mapping"
        hint = f"{what}, see `cynosure recipes show` for an example"
        raise ConfigError([*problems, Problem(show_path(path), "", hint)])
    if "base" not in document.data:
        return document
    where, base = document.place(("base",)), document.data.pop("base")
    if not isinstance(base, str):
        raise ConfigError([*problems, Problem(where, "base", "must be the name or the file of one recipe")])
    seen = (*seen, path.resolve())
    beside = path.parent / base
    try:
        found = beside if beside.is_file() else resolve(base, registry)
    except CynosureError as error:
        raise ConfigError([*problems, Problem(where, "base", str(error))]) from None
    if found.resolve() in seen:
        circle = " -> ".join(show_path(each) for each in (*seen[seen.index(found.resolve()) :], found.resolve()))
        raise ConfigError([*problems, Problem(where, "base", f"goes in a circle: {circle}")])
    return _overlaid(_with_bases(found, registry, seen, problems), document, problems)


def _with_set(document: Document, text: str, problems: list[Problem]) -> Document:
    """`document` with one `--set a.b=value`; the value is YAML."""
    path, equals, value = text.partition("=")
    where = f"--set {path}"
    keys = path.strip().split(".")
    if not equals or not all(keys):
        problems.append(Problem(f"--set {text}", "", "must look like key.key=value"))
        return document
    try:
        parsed = parse_yaml(value, where).data
    except ConfigError as error:
        problems += [Problem(where, "", problem.message) for problem in error.problems]
        return document
    return _with_value(document, keys, parsed, where, problems)


def _with_value(document: Document, keys: Sequence[str], value: Any, where: str, problems: list[Problem]) -> Document:
    here: Any = document.data
    for key in keys[:-1]:  # a part given by its bare name grows into a mapping
        if isinstance(here, dict) and isinstance(here.get(key), str):
            here[key] = {"name": here[key]}
        here = here.get(key) if isinstance(here, dict) else None
    paths: list[Key] = [tuple(keys[: i + 1]) for i in range(len(keys))]
    places = {path: where for path in paths if path == paths[-1] or path not in document.places}
    for key in reversed(keys):
        value = {key: value}
    return _overlaid(document, Document(value, places), problems)


def _overlaid(base: Document, over: Document, problems: list[Problem]) -> Document:
    """`over` laid on `base`; a null that takes nothing away is a problem."""
    for section, kind in REMOVABLE.items():
        below, above = (each.data.get(section) for each in (base, over))
        if isinstance(above, Mapping):
            there = below if isinstance(below, Mapping) else {}
            for name in (key for key, value in above.items() if value is None and key not in there):
                text = f"null takes nothing away: {unknown(kind, name, there)}"
                problems.append(Problem(over.place((section, name)), f"{section}.{name}", text))
    return merge(base, over)


def _drop_nulls(data: dict[str, Any]) -> None:
    for section in REMOVABLE:
        if isinstance(data.get(section), dict):
            data[section] = {key: value for key, value in data[section].items() if value is not None}


def _apply_mixture(document: Document, registry: Registry, problems: list[Problem]) -> None:
    """Keep the tasks of `mixing.mixture`, weighted as registry.yaml says; the resolved recipe needs it no more."""
    mixing, tasks = document.data.get("mixing"), document.data.get("tasks")
    name = mixing.get("mixture") if isinstance(mixing, Mapping) else None
    if not isinstance(name, str) or not isinstance(tasks, Mapping):
        return
    place = document.place(("mixing", "mixture"))
    if name not in registry.mixtures:
        problems.append(Problem(place, "mixing.mixture", unknown("mixture", name, registry.mixtures)))
        return
    weights = registry.mixtures[name].tasks
    missing = [task for task in weights if task not in tasks]
    if missing:
        text = f"'{name}' draws {', '.join(missing)}, add it to this recipe's tasks"
        problems.append(Problem(place, "mixing.mixture", text))
    document.data["mixing"] = {key: value for key, value in mixing.items() if key != "mixture"}
    document.data["tasks"] = {
        task: {**use, "weight": weights[task]} if isinstance(use, Mapping) else use
        for task, use in tasks.items()
        if task in weights
    }


def _validated(document: Document, problems: list[Problem]) -> Recipe:
    """The document as a recipe; raises ConfigError with `problems` and all that validation adds to them."""
    for check in CHECKS:
        problems += [Problem(document.place(key), dotted(key), message) for key, message in check(document.data)]
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        problems += problems_of(error, Recipe, place=document.place, also=("base",))
    if problems:
        raise ConfigError(sorted(set(problems), key=by_place))
    return recipe


def _component_problems(document: Document, host: Host) -> Iterator[Problem]:
    """Unknown components and wrong options. Good options are completed with their defaults in place."""
    for kind, key, options in list(_parts(document.data)):
        name = options.get("name")
        if not isinstance(name, str):
            continue
        try:
            config: Any = host.components.get(kind, name).Config
        except CynosureError as error:
            place = (*key, "name")
            yield Problem(document.place(place), dotted(place), str(error))
            continue
        own = own_options(kind, options)
        also = list(PARTS_OF.get(kind, ()))
        if kind == "task":
            own = {option: value for option, value in own.items() if option not in TaskUse.model_fields}
            also += list(TaskUse.model_fields)
        try:
            filled = config.model_validate(own).model_dump(mode="json", by_alias=True)
        except ValidationError as error:
            found = problems_of(error, config, key, document.place, also)
            # The dataset may still give a task what it lacks.
            yield from (each for each in found if kind != "task" or each.message != "is missing")
            continue
        if kind != "task":
            options.update(filled)


def _parts(data: Mapping[str, Any]) -> Iterator[tuple[str, Key, dict[str, Any]]]:
    """Every component of a recipe: its kind, its key, its options (a bare name becomes a mapping)."""
    for key in _mapping(data.get("data")):
        yield from _part("dataset", data["data"], key, ("data", key))
    for key, use in _mapping(data.get("tasks")).items():
        if isinstance(use, dict):
            use.setdefault("name", key)
            yield "task", ("tasks", key), use
    for kind in ("tokenizer", "base", "prior"):
        yield from _part(kind, _mapping(data.get("model")), kind, ("model", kind))
    criteria = _mapping(data.get("model")).get("criteria")
    for i in range(len(criteria) if isinstance(criteria, list) else 0):
        yield from _part("criterion", criteria, i, ("model", "criteria", i))


def _part(kind: str, holder: Any, key: Any, path: Key) -> Iterator[tuple[str, Key, dict[str, Any]]]:
    options = holder[key] if isinstance(holder, list) else holder.get(key)
    if isinstance(options, str):
        options = holder[key] = {"name": options}
    if isinstance(options, dict):
        yield kind, path, options
        for option, inner in PARTS_OF.get(kind, {}).items():
            yield from _part(inner, options, option, (*path, option))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
