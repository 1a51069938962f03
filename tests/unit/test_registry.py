"""registry.yaml: packaged, project and installed plugins become one list; mistakes are reported with their place."""

import sys
from pathlib import Path

import pytest

from cynosure.errors import ConfigError, CynosureError
from cynosure.host import load_host
from cynosure.registry import Registry, load_registry, packaged_registry, registry_schema

PLUGIN = "from cynosure import hookimpl\n@hookimpl\ndef cynosure_train_start(run):\n    run.append(__name__)\n"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """No project registry and no settings from outside; only the entry points that a test installs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CYNOSURE_REGISTRY", raising=False)
    monkeypatch.delenv("CYNOSURE_DISABLE", raising=False)


def write(text: str, name: str = "registry.yaml") -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return Path(name)


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_registry(write(text))
    return str(caught.value)


def install(package: str, point: str, value: str) -> None:
    """An installed package with one entry point, on a folder of sys.path."""
    info = Path("site") / f"{package}-1.5.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[cynosure.plugins]\n{point} = {value}\n")
    module = Path("site") / f"{value.partition(':')[0]}.py"
    module.write_text(PLUGIN)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield
    for name in ("starry", "lunar"):
        sys.modules.pop(name, None)


def test_packaged_registry_is_always_there():
    registry = load_registry()
    assert "vq" in registry.plugins and registry.files == (packaged_registry(),)
    assert registry.builtin == frozenset(registry.plugins)


def test_packaged_registry_names_modules_that_exist():
    from cynosure.discovery import survey

    broken = {name: source.error for name, source in survey(load_registry()).items() if source.error}
    assert broken == {}


def test_project_registry_adds_after_the_packaged_one():
    registry = load_registry(write("plugins:\n  mine: {path: ./mine.py}\n"))
    assert list(registry.plugins)[-1] == "mine" and "mine" not in registry.builtin


@pytest.mark.parametrize("how", ["argument", "environment", "current folder"])
def test_project_registry_is_found(how, monkeypatch):
    file = write("plugins: {mine: {path: mine.py}}", "registry.yaml" if how == "current folder" else "other/mine.yaml")
    if how == "environment":
        monkeypatch.setenv("CYNOSURE_REGISTRY", str(file))
    assert "mine" in load_registry(file if how == "argument" else None).plugins


def test_relative_paths_start_at_the_registry_file():
    registry = load_registry(write("plugins: {mine: {path: ../mine.py}}", "deep/er/registry.yaml"))
    assert registry.plugins["mine"].path == Path("deep/mine.py").resolve()


def test_project_switches_off_and_gives_options():
    registry = load_registry(write("plugins:\n  vq: {enabled: false}\n  vit_oracle: {options: {speed: 2}}\n"))
    assert not registry.plugins["vq"].enabled and registry.plugins["vq"].module
    assert registry.plugins["vit_oracle"].options == {"speed": 2}
    assert "vq" not in dict(registry.enabled())


def test_project_replaces_the_source_of_a_built_in():
    registry = load_registry(write("plugins:\n  vq: {path: my_vq.py}\n"))
    assert registry.plugins["vq"].module is None and "vq" not in registry.builtin


def test_disable_by_environment(monkeypatch):
    monkeypatch.setenv("CYNOSURE_DISABLE", "vq, depth")
    assert {"vq", "depth"}.isdisjoint(dict(load_registry().enabled()))


def test_disable_of_an_unknown_plugin_is_an_error(monkeypatch):
    monkeypatch.setenv("CYNOSURE_DISABLE", "dept")
    with pytest.raises(CynosureError, match="CYNOSURE_DISABLE: no plugin is named 'dept', did you mean 'depth'"):
        load_registry()


def test_all_mistakes_come_at_once_with_their_place():
    text = problems("schema: 2\nplugin: {}\nplugins:\n  a: {modul: x}\n  b: {module: x, enabled: maybe}\n")
    assert "registry.yaml:1:1 schema: should be 1, not 2" in text
    assert "registry.yaml:2:1 plugin: unknown key, did you mean 'plugins'?" in text
    assert "registry.yaml:4:7 plugins.a.modul: unknown key, did you mean 'module'?" in text
    assert "registry.yaml:5:18 plugins.b.enabled: should be a valid boolean" in text


def test_plugin_without_a_source_is_an_error():
    text = problems("plugins:\n  deptth: {enabled: false}\n  two: {module: a, path: b}\n")
    assert "registry.yaml:2:3 plugins.deptth: needs exactly one of module, path, entry_point, did you mean" in text
    assert "registry.yaml:3:3 plugins.two: needs exactly one of module, path, entry_point, not module and path" in text


def test_mistakes_of_all_kinds_come_at_once():
    """A key given twice, a wrong value and a plugin without a source do not hide each other."""
    text = problems("plugins:\n  bad: {enabled: maybe}\n  two: {module: a}\n  two: {module: b}\nplugin: {}\n")
    assert text.splitlines() == [
        "registry.yaml:2:3 plugins.bad: needs exactly one of module, path, entry_point",
        "registry.yaml:2:9 plugins.bad.enabled: should be a valid boolean, unable to interpret input, not 'maybe'",
        "registry.yaml:4:3 plugins.two: is given twice, first in line 3; keep one",
        "registry.yaml:5:1 plugin: unknown key, did you mean 'plugins'?",
    ]


def test_plugin_by_path_is_never_built_in(monkeypatch):
    """A file entered in the packaged registry is still somebody's own: its version is not Cynosure's."""
    file = write("plugins:\n  vq: {module: cynosure_plugins.quantizers.vq}\n  mine: {path: mine.py}\n", "packaged.yaml")
    monkeypatch.setattr("cynosure.registry.packaged_registry", lambda: file)
    assert load_registry().builtin == {"vq"}


def test_schema_for_editors_knows_every_key():
    schema = registry_schema()
    assert set(schema["properties"]) == {"schema", "discovery", "plugins", "mixtures"}
    assert {"module", "path", "entry_point", "enabled", "options"} <= set(schema["$defs"]["PluginEntry"]["properties"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a", "is not a mapping"),
        ("plugins:\n", "plugins: must be a mapping"),
        ("a: [", "not valid"),
    ],
)
def test_file_that_is_no_registry_is_an_error(text, message):
    assert message in problems(text) and "registry.yaml" in problems(text)


def test_missing_file_is_an_error():
    with pytest.raises(ConfigError, match=r"nowhere.yaml cannot be read: No such file"):
        load_registry(Path("nowhere.yaml"))


def test_mixtures_are_read_and_checked():
    registry = load_registry(write("mixtures:\n  both: {tasks: {depth: 1, panoptic: 2.5}}\n"))
    assert registry.mixtures["both"].tasks == {"depth": 1.0, "panoptic": 2.5}
    assert "mixtures.both.tasks.depth: should be greater than 0" in problems("mixtures: {both: {tasks: {depth: -1}}}")


def test_entry_point_plugin_loads_by_itself_with_its_package_version(site):
    install("starry-plugins", "starry", "starry")
    registry = load_registry()
    assert list(registry.plugins)[-1] == "starry", "installed plugins come last"
    host = load_host(registry, only=["starry"], strict=True)
    assert host.versions() == {"starry": "1.5"}
    run: list[str] = []
    host.train_start(run)
    assert run == ["starry"]


@pytest.mark.parametrize("rule", ["deny: [starry]", "allow: [other]", "allow: []"])
def test_untrusted_entry_point_is_not_loaded(site, rule):
    install("starry-plugins", "starry", "starry")
    assert "starry" not in load_registry(write(f"discovery: {{{rule}}}")).plugins


def test_entry_point_can_be_named_and_renamed(site):
    install("starry-plugins", "starry", "starry")
    registry = load_registry(write("discovery: {allow: []}\nplugins: {night: {entry_point: starry}}"))
    assert "starry" not in registry.plugins
    assert [plugin.name for plugin in load_host(registry, only=["night"], strict=True).plugins] == ["night"]


def test_entry_point_whose_module_is_named_loads_once(site):
    install("starry-plugins", "starry", "starry")
    registry = load_registry(write("plugins: {night: {module: starry}}"))
    assert "starry" not in registry.plugins
    assert [plugin.name for plugin in load_host(registry, only=["night"], strict=True).plugins] == ["night"]


def test_entry_points_with_one_name_are_told_apart(site):
    install("starry-plugins", "vq", "starry")
    install("lunar-plugins", "vq", "lunar")
    registry = load_registry()
    new = [name for name in registry.plugins if name not in registry.builtin]
    assert new == ["lunar-plugins:vq", "starry-plugins:vq"] and registry.plugins["vq"].module
    assert load_host(registry, only=new, strict=True).versions() == dict.fromkeys(new, "1.5")


def test_entry_point_that_is_not_installed_is_a_failure():
    registry = load_registry(write("plugins: {night: {entry_point: stary}}"))
    [failure] = load_host(registry, only=["night"]).failures
    assert "no installed package has it" in failure.error and "'stary'" in failure.error


def test_entry_point_to_an_object_is_a_failure(site):
    install("starry-plugins", "starry", "starry:plugin")
    [failure] = load_host(load_registry(), only=["starry"]).failures
    assert "write 'starry' not 'starry:plugin'" in failure.error


def test_unknown_plugin_is_an_error():
    with pytest.raises(CynosureError, match="no plugin is named 'b'"):
        Registry({}).plugin("b")
