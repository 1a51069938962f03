"""What is wrong with the hooks of a plugin module, found before any of them is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

import pluggy

from cynosure import hookspecs
from cynosure.errors import did_you_mean


def validate(module: ModuleType) -> list[str]:
    """Everything wrong with the hooks of a plugin module, one sentence each."""
    problems = []
    api = getattr(module, "HOOK_API", hookspecs.HOOK_API)
    if api != hookspecs.HOOK_API:
        problems.append(f"HOOK_API is {api} but this cynosure has {hookspecs.HOOK_API}, update the older of the two")
    found = implementations(module)
    for hook, function in found:
        if hook not in _HOOKS:
            problems.append(f"there is no hook {hook}{did_you_mean(hook, _HOOKS)}")
        else:
            problems += function_problems(hook, function)
    marked = [function for _, function in found]
    for name, function in inspect.getmembers(module, inspect.isfunction):
        looks_like_hook = name.startswith("cynosure_") and function.__module__ == module.__name__
        if looks_like_hook and function not in marked:
            hint = "" if name in _HOOKS else f"; there is no hook {name}{did_you_mean(name, _HOOKS)}"
            problems.append(f"{name} is not decorated, forgot @hookimpl?{hint}")
    if not isinstance(getattr(module, "FORMATS", {}), Mapping) and "cynosure_export" in dict(found):
        problems.append("FORMATS must map names of formats to endings of files, like {'onnx': '.onnx'}")
    if not found and not problems:
        problems.append("implements no hook; write cynosure_register(register) under @hookimpl")
    return problems or _refusal(module)


def function_problems(hook: str, function: Callable[..., Any]) -> list[str]:
    """What is wrong with a function that implements a hook: its arguments, and whether it would run when called."""
    known = list(inspect.signature(_HOOKS[hook]).parameters)
    problems = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            problems.append(f"{hook} cannot take *{name}, name the arguments it wants of ({', '.join(known)})")
        elif name not in known:
            problems.append(f"{hook} has no argument {name}{did_you_mean(name, known)}; it has ({', '.join(known)})")
    if idle := _why_idle(hook, function):
        problems.append(idle)
    return problems


def _why_idle(hook: str, function: Callable[..., Any]) -> str:
    """Why a function would not run, or not as a wrapper, when its hook is called; '' where it would."""
    wraps = _options(function).get("wrapper") or _options(function).get("hookwrapper")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return f"{hook} is 'async' and nothing would await it, write 'def {hook}'"
    if wraps and hook == "cynosure_register":
        return f"{hook} fires for its own plugin alone and has nothing to wrap, write @hookimpl without wrapper"
    if wraps and not inspect.isgeneratorfunction(function):
        return f"{hook} is a wrapper but has no yield, write 'result = yield' and return the result"
    if not wraps and inspect.isgeneratorfunction(function):
        return f"{hook} has a yield but is no wrapper, write @hookimpl(wrapper=True) or return the result"
    return ""


def _refusal(module: ModuleType) -> list[str]:
    """What pluggy itself has against a module, if anything."""
    manager = _trial_manager()
    try:
        manager.register(module)
        return []
    except Exception as error:
        return [" ".join(str(error).split())]
    finally:
        if manager.is_registered(module):
            manager.unregister(module)


def implementations(module: ModuleType) -> list[tuple[str, Callable[..., Any]]]:
    """(hook, function) for every function of the module under `@hookimpl`."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return [(_options(each).get("specname") or name, each) for name, each in functions if _options(each)]


def _options(function: Any) -> Mapping[str, Any]:
    return getattr(function, "cynosure_impl", None) or {}


def hook_manager() -> pluggy.PluginManager:
    """A manager that knows the hooks of Cynosure and no plugin yet."""
    manager = pluggy.PluginManager("cynosure")
    manager.add_hookspecs(hookspecs)
    return manager


@cache
def _trial_manager() -> pluggy.PluginManager:
    """One for all trials: to make one takes longer than a trial."""
    return hook_manager()


_HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("cynosure_")}
