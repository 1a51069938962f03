"""Discovery reads what plugins offer from their source and never runs it."""

import sys

import pytest

from cynosure.discovery import find_module, inspect_plugin, package_folder, plugins_with
from cynosure.errors import PluginError
from cynosure.registry import GROUP, PluginEntry, Registry

SOURCE = '''"""Finds stars.

More about it.
"""
import sys
from cynosure import hookimpl
import cynosure.hookspecs as h
__version__ = "3.1"
sys.modules["imported_by_discovery"] = sys

@hookimpl
def cynosure_register(register):
    register.task("stars", object)
    for name in ("a", "b"):
        register.metric(name, object)
    register.metric("brightness", object)
    other.task("no", object)

@h.hookimpl(trylast=True, specname="cynosure_render")
def draw(prediction): ...

@hookimpl(wrapper=True)
def cynosure_predict(model): ...

def cynosure_export(): ...
'''


@pytest.fixture
def inspect(tmp_path):
    def inspect_source(text: str):
        (tmp_path / "plugin.py").write_text(text)
        return inspect_plugin("plugin", PluginEntry(path=tmp_path / "plugin.py"), GROUP)

    return inspect_source


def test_source_tells_summary_version_hooks_and_components(inspect):
    source = inspect(SOURCE)
    assert (source.summary, source.version, source.error) == ("Finds stars.", "3.1", "")
    assert source.hooks == ("cynosure_register", "cynosure_render", "cynosure_predict")
    assert source.components == (("task", "stars"), ("metric", "brightness"))


def test_plugin_code_does_not_run(inspect):
    inspect(SOURCE)
    assert "imported_by_discovery" not in sys.modules


def test_syntax_error_is_reported_with_its_line(inspect):
    assert "(line 2)" in inspect("import sys\ndef broken(:\n").error


def test_missing_sources_are_reported(tmp_path):
    assert "there is no file" in inspect_plugin("p", PluginEntry(path=tmp_path / "gone.py"), GROUP).error
    assert (
        "there is no module 'no_package', install"
        in inspect_plugin("p", PluginEntry(module="no_package.x"), GROUP).error
    )
    assert "no installed package has it" in inspect_plugin("p", PluginEntry(entry_point="gone"), GROUP).error


def test_module_is_found_without_importing_the_packages_around_it(tmp_path, monkeypatch):
    inner = tmp_path / "noisy_package" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner.parent, inner):
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (inner / "plugin.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_module("noisy_package.inner.plugin") == inner / "plugin.py"
    assert package_folder(PluginEntry(module="noisy_package.inner.plugin"), GROUP) == inner.parent
    with pytest.raises(PluginError, match=r"there is no module 'noisy_package.inner.plugins'"):
        find_module("noisy_package.inner.plugins")


def test_only_plugins_that_implement_a_hook_are_found(tmp_path):
    texts = {
        "yes": "from cynosure import hookimpl\n@hookimpl\ndef cynosure_commands(app): ...",
        "mentions": "# no cynosure_commands here",
        "no": "",
        "off": "from cynosure import hookimpl\n@hookimpl\ndef cynosure_commands(app): ...",
    }
    plugins = {"gone": PluginEntry(path=tmp_path / "gone.py")}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        plugins[name] = PluginEntry(path=tmp_path / f"{name}.py", enabled=name != "off")
    assert plugins_with("cynosure_commands", Registry(plugins)) == ["yes"]
