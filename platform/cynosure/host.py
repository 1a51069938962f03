"""The plugin host: loads plugins one at a time, in registry order, and calls hooks through typed methods.

A plugin that cannot be loaded is recorded with everything that is wrong with it, and the others go on without it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from reprlib import Repr
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cynosure import __version__, defaults
from cynosure.components import Components, Register
from cynosure.discovery import locate
from cynosure.errors import CynosureError, PluginError, unknown
from cynosure.hookchecks import function_problems, hook_manager, implementations, validate
from cynosure.hookresults import NamedTransform, checked, checked_picture
from cynosure.registry import PluginEntry, Registry, find_entry_point, load_registry

if TYPE_CHECKING:
    import numpy as np
    import torch
    import typer

    from cynosure.config.recipe import Recipe
    from cynosure.core.contracts import Task
    from cynosure.core.guided import GuidedModel
    from cynosure.core.records import Batch, Prediction, StepOutput
    from cynosure.data.loading import TaskData, Transform
    from cynosure.data.mixing import Mixture


@dataclass(frozen=True)
class PluginFailure:
    """Why a plugin did not load. `stage` is 'import', 'validate' or 'register'; `error` has one problem a line."""

    name: str
    stage: str
    error: str
    traceback_text: str = ""


@dataclass(frozen=True)
class LoadedPlugin:
    """A plugin that loaded, with the hooks it implements."""

    name: str
    version: str
    source: str
    hooks: tuple[str, ...]
    module: ModuleType


class Host:
    """Loaded plugins: their components, and one typed method per hook. Made by `load_host`."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.components = Components()
        self.plugins: list[LoadedPlugin] = []
        self.failures: list[PluginFailure] = []
        self._manager = hook_manager()

    # --- when plugins load

    def commands(self, app: typer.Typer) -> None:
        self._call("cynosure_commands", app=app)

    # --- when a run is put together

    def build_model(self, recipe: Recipe) -> GuidedModel | None:
        from cynosure.core.guided import GuidedModel

        hook = "cynosure_build_model"
        found = self._call(hook, recipe=recipe)
        return None if found is None else self._checked(hook, found, GuidedModel, "a GuidedModel")

    def build_optimizer(self, run: Any) -> torch.optim.Optimizer | None:
        from torch.optim import Optimizer

        hook = "cynosure_build_optimizer"
        found = self._call(hook, run=run)
        return None if found is None else self._checked(hook, found, Optimizer, "an optimizer")

    def transforms(self, task: Task, split: str) -> list[Transform]:
        hook = "cynosure_transforms"
        transforms: list[Transform] = []
        for found in self._call(hook, task=task, split=split):
            giver = self._named(hook, found)
            function = checked(partial(str, giver), found, Callable, "one function (example, rng) -> example")
            transforms.append(NamedTransform(function, f"the function of {giver}"))
        return transforms

    # --- while a run trains

    def train_start(self, run: Any) -> None:
        self._call("cynosure_train_start", run=run)

    def stage_start(self, run: Any, data: Mapping[str, TaskData], mixture: Mixture) -> None:
        self._call("cynosure_stage_start", run=run, data=data, mixture=mixture)

    def training_step(self, run: Any, batch: Batch) -> StepOutput:
        from cynosure.core.records import StepOutput

        hook = "cynosure_training_step"
        found = self._call(hook, run=run, batch=batch)
        return self._checked(hook, found, StepOutput, "a StepOutput")

    def step_end(self, run: Any, logs: Mapping[str, float]) -> None:
        self._call("cynosure_step_end", run=run, logs=logs)

    def evaluated(
        self, run: Any, task: Task, metrics: Mapping[str, Mapping[str, float]], samples: Sequence[Prediction]
    ) -> None:
        self._call("cynosure_evaluated", run=run, task=task, metrics=metrics, samples=samples)

    def checkpoint_saved(self, run: Any, path: Path) -> None:
        self._call("cynosure_checkpoint_saved", run=run, path=path)

    def train_end(self, run: Any, error: BaseException | None) -> None:
        self._call("cynosure_train_end", run=run, error=error)

    # --- when a model is used

    def predict(self, model: Any, request: Any) -> list[Prediction] | None:
        from cynosure.core.records import Prediction

        hook, wanted, form = "cynosure_predict", len(request.rows), "a list with a Prediction for each row"
        found = self._call(hook, model=model, request=request)
        if found is None and not self._has_default(hook):
            return None
        with self._noted(hook):
            answers = list(self._checked(hook, found, Iterable, form))
        for answer in answers:
            self._checked(hook, answer, Prediction, form)
        if len(answers) != wanted:
            raise PluginError(f"{self._named(hook)} gave {len(answers)} answers for {wanted} rows: return one for each")
        return answers

    def render(self, prediction: Prediction) -> np.ndarray | None:
        hook = "cynosure_render"
        found = self._call(hook, prediction=prediction)
        if found is None and not self._has_default(hook):
            return None
        return checked_picture(partial(self._named, hook), found)

    def export(
        self, model: Any, format: str, path: Path, task: str | None, style: Sequence[int] | None = None
    ) -> Path | None:
        hook = "cynosure_export"
        found = self._call(hook, model=model, format=format, path=path, task=task, style=style)
        return None if found is None else self._checked(hook, found, Path, "the pathlib.Path that it wrote")

    def export_formats(self) -> dict[str, str]:
        """The formats that plugins with cynosure_export list in their `FORMATS`: name -> ending of files."""
        listed = [getattr(p.module, "FORMATS", {}) for p in self.plugins if "cynosure_export" in p.hooks]
        return {name: ending for formats in listed for name, ending in formats.items()}

    # --- the host itself

    def versions(self) -> dict[str, str]:
        """Name and version of every loaded plugin, for checkpoints."""
        return {plugin.name: plugin.version for plugin in self.plugins}

    def trace(self, print_function: Callable[[str], Any]) -> Callable[[], None]:
        """Print every hook call, its implementations in order and its result; returns a function that stops it."""

        def before(hook: str, implementations: Any, arguments: Mapping[str, Any]) -> None:
            shown = ", ".join(f"{name}={_SHORT.repr(value)}" for name, value in arguments.items())
            order = ", ".join(each.plugin_name for each in reversed(implementations)) or "no plugin"
            print_function(f"hook {hook}({shown}): {order}")

        def after(outcome: Any, hook: str, implementations: Any, arguments: Mapping[str, Any]) -> None:
            error = outcome.exception
            print_function(f"hook {hook} -> {f'raised {error!r}' if error else _SHORT.repr(outcome.get_result())}")

        return self._manager.add_hookcall_monitoring(before, after)

    def _call(self, hook: str, **arguments: Any) -> Any:
        with self._noted(hook):
            return getattr(self._manager.hook, hook)(**arguments)

    @contextmanager
    def _noted(self, hook: str) -> Iterator[None]:
        """An error inside says in a note which plugin's code raised it."""
        try:
            yield
        except Exception as error:
            if name := self._origin(error):
                implemented = any(plugin.name == name and hook in plugin.hooks for plugin in self.plugins)
                error.add_note(f"raised in {hook if implemented else 'the code'} of plugin '{name}'")
            raise

    def _checked(self, hook: str, result: Any, kind: Any, wanted: str) -> Any:
        return checked(partial(self._named, hook), result, kind, wanted)

    def _has_default(self, hook: str) -> bool:
        """Whether Cynosure itself answers where no other plugin does: no result is then a wrapper's that lost it."""
        return any(plugin.module is defaults and hook in plugin.hooks for plugin in self.plugins)

    def _named(self, hook: str, result: Any = None) -> str:
        """A hook with the plugin whose code holds its result, or else those that may have given it: the built-in ones
        only where there are no others."""
        module = getattr(result, "__module__", None)
        plugins = [plugin for plugin in self.plugins if hook in plugin.hooks]
        names = [plugin.name for plugin in plugins if plugin.module.__name__ == module]
        names = names or [plugin.name for plugin in plugins if plugin.name not in self.registry.builtin]
        names = names or [plugin.name for plugin in plugins]
        return f"{hook} of plugin {' or '.join(map(repr, names))}" if names else hook

    def _origin(self, error: BaseException) -> str:
        """The plugin whose code was running deepest when `error` was raised, or ''."""
        names = {plugin.module.__name__: plugin.name for plugin in self.plugins}
        frames = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
        return next((names[module] for module in reversed(frames) if module in names), "")

    def _finish(self) -> None:
        """Pluggy runs the last registered first, so plugins are registered in reverse."""
        for plugin in reversed(self.plugins):
            self._manager.register(plugin.module, plugin.name)
        self.components.failed = [failure.name for failure in self.failures]


def load_host(
    registry: Path | Registry | None = None, *, strict: bool = False, only: Iterable[str] | None = None
) -> Host:
    """Load the enabled plugins (or just those named in `only`) in registry order.

    Raises ConfigError when the registry itself is wrong and, when `strict`, PluginError if any plugin fails.
    """
    if not isinstance(registry, Registry):
        registry = load_registry(registry)
    wanted = set(registry.plugins) if only is None else set(only)
    for name in sorted(wanted - set(registry.plugins)):
        raise CynosureError(unknown("plugin", name, registry.plugins))
    host = Host(registry)
    for name, entry in registry.enabled():
        if name in wanted:
            loaded = _load(host, name, entry)
            if isinstance(loaded, PluginFailure):
                host.failures.append(loaded)
            else:
                host.plugins.append(loaded)
    host._finish()
    if strict and host.failures:
        raise PluginError("\n".join(describe(failure) for failure in host.failures))
    return host


def describe(failure: PluginFailure) -> str:
    """A failure in one sentence."""
    return f"plugin '{failure.name}' failed ({failure.stage}): {failure.error.replace(chr(10), '; ')}"


def _load(host: Host, name: str, entry: PluginEntry) -> LoadedPlugin | PluginFailure:
    try:
        module = _import(name, entry, host.registry.group)
    except (Exception, SystemExit) as error:
        said = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        return PluginFailure(name, "import", said, traceback.format_exc())
    version = __version__ if name in host.registry.builtin else _version(entry, module, host.registry.group)
    if twin := next((plugin.name for plugin in host.plugins if plugin.module is module), ""):
        said = f"it is the same module as plugin '{twin}', which is loaded already: leave one of the two out"
        return PluginFailure(name, "import", said)
    problems = validate(module) + _version_problems(entry, version)
    stage, trace = "validate", ""
    register = Register(host.components, name, entry.options)
    function = dict(implementations(module)).get("cynosure_register")
    if function and not function_problems("cynosure_register", function):
        try:
            function(register=register) if inspect.signature(function).parameters else function()
        except (Exception, SystemExit) as error:
            stage, trace = "register", traceback.format_exc()
            problems.append(f"cynosure_register raised {type(error).__name__}: {error}")
        if taken := register.problems():
            stage = "register"
            problems += taken
    if problems:
        return PluginFailure(name, stage, "\n".join(problems), trace)
    register.commit()
    return LoadedPlugin(name, version, entry.source, tuple(hook for hook, _ in implementations(module)), module)


def _import(name: str, entry: PluginEntry, group: str) -> ModuleType:
    if entry.path:
        return _import_file(name, locate(entry, group))
    if entry.module:
        return importlib.import_module(entry.module)
    point = find_entry_point(group, str(entry.entry_point))
    if point.attr:
        raise PluginError(f"entry point '{point.name}' must name a module, write '{point.module}' not '{point.value}'")
    return importlib.import_module(point.module)


def _import_file(name: str, file: Path) -> ModuleType:
    """Import a one-file plugin under a name of its own; an unchanged file is imported once, so its classes stay."""
    full, stamp = f"cynosure_path_plugin_{name}", (str(file), file.stat().st_mtime_ns)
    known = sys.modules.get(full)
    if known is not None and getattr(known, "__cynosure_stamp__", None) == stamp:
        return known
    spec = importlib.util.spec_from_file_location(full, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file} is not a Python file, its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[full]
        raise
    vars(module)["__cynosure_stamp__"] = stamp
    return module


def _version(entry: PluginEntry, module: ModuleType, group: str) -> str:
    """The version of the plugin's package, else `__version__` of the module or its top package, else ''."""
    if entry.entry_point:
        distribution = find_entry_point(group, entry.entry_point).dist
        if distribution:
            return distribution.version
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    return str(getattr(module, "__version__", getattr(top, "__version__", "")))


def _version_problems(entry: PluginEntry, version: str) -> list[str]:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if entry.version is None:
        return []
    try:
        bare = entry.version[:1].isdigit()
        wanted = SpecifierSet(f"=={entry.version}" if bare else entry.version)
    except InvalidSpecifier:
        return [f"version '{entry.version}' in the registry is not a version, write '1.2' or '>=1.2,<2'"]
    if not version:
        return [f"version {entry.version} is required but the plugin does not state its __version__"]
    return [] if wanted.contains(version) else [f"version {entry.version} is required but {version} is there"]


_SHORT = Repr()
_SHORT.maxother = 80
