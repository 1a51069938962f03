"""docs/hooks.md and the hook specifications cannot drift apart, and its examples are valid plugins."""

import inspect
import re
import types
from pathlib import Path

import pytest

from cynosure import hookspecs
from cynosure.hookchecks import validate

TEXT = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text(encoding="utf-8")
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("cynosure_")}
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_documented_hooks_and_arguments_equal_the_specifications():
    documented = dict(re.findall(r"^### `(cynosure_\w+)\((.*?)\)`$", TEXT, flags=re.MULTILINE))
    specified = {name: ", ".join(inspect.signature(hook).parameters) for name, hook in HOOKS.items()}
    assert documented == specified


def test_overview_lists_every_hook_in_the_order_of_the_specifications():
    rows = re.findall(r"^\| `(cynosure_\w+)` \|.*\| (.*?) ?\|$", TEXT, flags=re.MULTILINE)
    assert [name for name, _ in rows] == list(HOOKS)
    for name, result in rows:
        assert (result == "first result") == HOOKS[name].cynosure_spec["firstresult"], f"{name}: wrong result column"


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda source: re.search(r"def (cynosure_\w+)", source)[1])
def test_example_is_a_valid_plugin(source):
    module = types.ModuleType("example")
    exec(source, module.__dict__)
    assert validate(module) == []


def test_every_hook_has_an_example():
    shown = set(re.findall(r"^def (cynosure_\w+)", "\n".join(EXAMPLES), flags=re.MULTILINE))
    assert shown == set(HOOKS)


def test_the_documented_hook_api_is_the_current_one():
    assert f"`HOOK_API = {hookspecs.HOOK_API}`" in TEXT
