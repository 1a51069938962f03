"""What plugins register: component classes by kind and name, each with its owner."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from cynosure.errors import ConfigError, CynosureError, PluginError, unknown

KINDS = (
    "task",
    "tokenizer",
    "quantizer",
    "base",
    "encoder",
    "prior",
    "criterion",
    "dataset",
    "metric",
    "protocol",
    "importer",
)

PARTS_OF = {"tokenizer": {"quantizer": "quantizer"}, "prior": {"encoder": "encoder"}}
"""Kind -> options that describe another component (option name -> its kind) and are built apart."""


class Components:
    """Classes by kind and name. Filled by the host, plugin by plugin."""

    def __init__(self) -> None:
        self._classes: dict[str, dict[str, type[Any]]] = {kind: {} for kind in KINDS}
        self._owners: dict[tuple[str, str], str] = {}
        self.failed: list[str] = []
        """Plugins that did not load, named when a component is missing."""

    def get(self, kind: str, name: str) -> type[Any]:
        """The class registered as `name`; raises CynosureError that lists what exists."""
        classes = self._of(kind)
        if name not in classes:
            failed = f"; plugins that failed to load: {', '.join(self.failed)}" if self.failed else ""
            raise CynosureError(unknown(kind, name, classes) + failed)
        return classes[name]

    def names(self, kind: str) -> list[str]:
        return list(self._of(kind))

    def owner(self, kind: str, name: str) -> str:
        """The plugin that registered the component."""
        self.get(kind, name)
        return self._owners[kind, name]

    def items(self, kind: str) -> Iterator[tuple[str, type[Any]]]:
        return iter(list(self._of(kind).items()))

    def config(self, kind: str, options: Mapping[str, Any] | str) -> Any:
        """The component's validated `Config`.

        `options` is `{name: vq, vocab_size: 256}`, or just the name. Raises ConfigError with every wrong option.
        """
        from pydantic import ValidationError

        from cynosure.config.problems import problems_of

        options = {"name": options} if isinstance(options, str) else options
        if "name" not in options:
            raise CynosureError(f"say which {kind} with 'name', one of: {', '.join(self.names(kind))}")
        config = self.get(kind, options["name"]).Config
        try:
            return config.model_validate(own_options(kind, options))
        except ValidationError as error:
            raise ConfigError(problems_of(error, config, (f"{kind} '{options['name']}'",))) from None

    def build(self, kind: str, options: Mapping[str, Any] | str, *args: Any, **kwargs: Any) -> Any:
        """A new component: `Class(Class.Config(**options), *args, **kwargs)`; see `config` for `options`."""
        config = self.config(kind, options)
        name = options if isinstance(options, str) else options["name"]
        return self.get(kind, name)(config, *args, **kwargs)

    def add(self, kind: str, name: str, cls: type, owner: str) -> None:
        """Register a class; raises PluginError when the name is taken or the class cannot be a component."""
        if problem := self.problem(kind, name, cls, owner):
            raise PluginError(problem)
        self._classes[kind][name] = cls
        self._owners[kind, name] = owner

    def problem(self, kind: str, name: str, cls: type, owner: str) -> str:
        """Why `cls` cannot be registered as `name`, or ''."""
        if name in self._of(kind):
            return f"{kind} '{name}' of plugin '{owner}' is taken by plugin '{self._owners[kind, name]}', rename one"
        if not inspect.isclass(cls):
            return f"{kind} '{name}' must be a class, not {type(cls).__name__}; register the class, not an instance"
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
            return f"{kind} '{name}': {cls.__name__} lacks {missing}"
        if not hasattr(getattr(cls, "Config", None), "model_validate"):
            return f"{kind} '{name}': give {cls.__name__} a nested 'class Config(PartConfig)' with its options"
        return ""

    def _of(self, kind: str) -> dict[str, type[Any]]:
        if kind not in self._classes:
            raise CynosureError(unknown("kind of component", kind, KINDS))
        return self._classes[kind]


class Register:
    """Given to a plugin's `cynosure_register`; `options` are the plugin's own, from registry.yaml.

    Registrations wait until `commit`, so a plugin registers all of its components or none.
    """

    def __init__(self, components: Components, plugin: str, options: Mapping[str, Any] | None = None) -> None:
        self.plugin = plugin
        self.options = dict(options or {})
        self._components = components
        self._waiting: dict[tuple[str, str], type] = {}
        self._repeated: list[str] = []

    def task(self, name: str, cls: type) -> None:
        self._add("task", name, cls)

    def tokenizer(self, name: str, cls: type) -> None:
        self._add("tokenizer", name, cls)

    def quantizer(self, name: str, cls: type) -> None:
        self._add("quantizer", name, cls)

    def base(self, name: str, cls: type) -> None:
        self._add("base", name, cls)

    def encoder(self, name: str, cls: type) -> None:
        self._add("encoder", name, cls)

    def prior(self, name: str, cls: type) -> None:
        self._add("prior", name, cls)

    def criterion(self, name: str, cls: type) -> None:
        self._add("criterion", name, cls)

    def dataset(self, name: str, cls: type) -> None:
        self._add("dataset", name, cls)

    def metric(self, name: str, cls: type) -> None:
        self._add("metric", name, cls)

    def protocol(self, name: str, cls: type) -> None:
        self._add("protocol", name, cls)

    def importer(self, name: str, cls: type) -> None:
        self._add("importer", name, cls)

    def problems(self) -> list[str]:
        """Everything that keeps the registrations from being committed."""
        found = (self._components.problem(kind, name, cls, self.plugin) for (kind, name), cls in self._waiting.items())
        return self._repeated + [problem for problem in found if problem]

    def commit(self) -> None:
        """Make the registrations real; raises PluginError with all problems, and then registers nothing."""
        if problems := self.problems():
            raise PluginError("; ".join(problems))
        for (kind, name), cls in self._waiting.items():
            self._components.add(kind, name, cls, self.plugin)

    def _add(self, kind: str, name: str, cls: type) -> None:
        if (kind, name) in self._waiting:
            self._repeated.append(f"{kind} '{name}' is registered twice by plugin '{self.plugin}'")
        self._waiting[kind, name] = cls


def own_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the component's own `Config` describes: without its name and the parts built apart."""
    apart = {"name", *PARTS_OF.get(kind, {})}
    return {key: value for key, value in options.items() if key not in apart}
