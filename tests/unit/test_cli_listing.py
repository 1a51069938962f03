"""Listing and help are fast because they import neither torch nor plugins; errors are one sentence and exit code 2."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cynosure.cli.app import globals_first, main

HEAVY = ("torch", "datasets", "accelerate", "timm", "skimage", "cynosure_plugins", "cynosure_tasks")
PROBE = f"""
import sys
from cynosure.cli.app import main
try:
    main(sys.argv[1:])
finally:
    print("HEAVY", *[name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CYNOSURE_REGISTRY", raising=False)


def probe(*arguments: str) -> str:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plugins", "list"], ["recipes", "list"], ["train", "--help"], ["--version"]],
    ids=" ".join,
)
def test_help_and_lists_import_nothing_heavy(arguments):
    assert probe(*arguments).splitlines()[-1] == "HEAVY", "a listing must not import heavy packages or plugins"


def processor_seconds(arguments: Sequence[str]) -> float:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], capture_output=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list"], ["recipes", "list"]], ids=" ".join)
def test_help_and_lists_cost_little_more_than_their_libraries(arguments):
    """Half a second on an idle core. A busy or slow one is slower in both of what takes turns here."""
    libraries = "import pydantic, typer.main, yaml\nclass Model(pydantic.BaseModel): number: int"
    ours, theirs = zip(
        *((processor_seconds(["-m", "cynosure", *arguments]), processor_seconds(["-c", libraries])) for _ in range(4)),
        strict=True,
    )
    assert min(ours) < 4 * min(theirs), f"cynosure {' '.join(arguments)} took {ours} s, its libraries alone {theirs}"


def test_help_does_without_rich():
    code = (
        "import sys\nfrom cynosure.cli.app import main\n"
        "try: main(['--help'])\nfinally: print('rich' in sys.modules, file=sys.stderr)"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    assert done.stderr.strip() == "False", "rich takes a quarter of the time of --help"


@pytest.mark.parametrize("name", ["cynosure", "cynosure.hookspecs", "cynosure.errors", "cynosure.components"])
def test_importing_the_package_imports_nothing_heavy(name):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    code = f"import sys, {name}; print([m for m in {(*HEAVY, 'pydantic')!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    assert done.stdout.strip() == "[]"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def write_plugin(text: str, name: str = "mine") -> None:
    Path(f"{name}.py").write_text(text)
    Path("registry.yaml").write_text(f"schema: 1\nplugins:\n  {name}: {{path: {name}.py}}\n")


def test_plugins_list_shows_what_each_provides(capsys):
    assert run("plugins", "list") == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("vq ")]
    assert "on" in line and "quantizer vq" in line


def test_plugins_list_shows_broken_and_disabled_plugins(capsys):
    write_plugin("def broken(:")
    Path("registry.yaml").write_text(Path("registry.yaml").read_text() + "  vq: {enabled: false}\n")
    assert run("plugins", "list", "--json") == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["mine"]["state"] == "failed" and "(line 1)" in listed["mine"]["error"]
    assert listed["vq"]["state"] == "off" and listed["depth"]["state"] == "on"
    assert listed["depth"]["components"] == [["task", "depth"]]


def test_recipes_are_listed_shown_and_copied(capsys):
    assert run("recipes", "list") == 0
    name = capsys.readouterr().out.split()[0]
    assert run("recipes", "show", name) == 0
    shown = capsys.readouterr().out
    assert run("recipes", "copy", name, "mine.yaml") == 0
    assert Path("mine.yaml").read_text() == shown
    assert run("recipes", "copy", name, "mine.yaml") == 2
    assert "mine.yaml exists already" in capsys.readouterr().err


def test_plugin_adds_a_command(capsys):
    write_plugin(
        "from cynosure import hookimpl\n@hookimpl\ndef cynosure_commands(app):\n"
        "    @app.command()\n    def twinkle():\n        'Twinkle.'\n        print('little star')\n"
    )
    assert run("twinkle") == 0
    assert capsys.readouterr().out == "little star\n"


def test_plugin_whose_command_is_broken_only_warns(capsys):
    write_plugin("from cynosure import hookimpl\n1/0\n@hookimpl\ndef cynosure_commands(app): ...\n")
    assert run("plugins", "list") == 0
    assert "plugin 'mine' failed (import): ZeroDivisionError" in capsys.readouterr().err


def test_error_is_one_sentence_and_exit_code_2(capsys):
    assert run("plugins", "show", "vqq") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("no plugin is named 'vqq', did you mean 'vq'?") and captured.err.count("\n") == 1


def test_mistake_in_the_registry_is_shown_with_its_place(capsys):
    Path("registry.yaml").write_text("plugns: {}\n")
    assert run("plugins", "list") == 2
    assert capsys.readouterr().err == "registry.yaml:1:1 plugns: unknown key, did you mean 'plugins'?\n"


def test_unexpected_error_points_to_debug(capsys):
    write_plugin(
        "from cynosure import hookimpl\n@hookimpl\ndef cynosure_commands(app):\n"
        "    @app.command()\n    def fail():\n        raise ZeroDivisionError('no stars')\n"
    )
    assert run("fail") == 1
    assert capsys.readouterr().err == "ZeroDivisionError: no stars; run again with --debug to see where\n"
    assert run("fail", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_unknown_command_is_a_usage_error(capsys):
    assert run("trian") == 2
    assert "train" in capsys.readouterr().err


def test_global_options_may_stand_anywhere():
    assert globals_first(["train", "a", "--debug", "--registry", "r.yaml", "-o", "x"]) == [
        "--debug", "--registry", "r.yaml", "train", "a", "-o", "x",
    ]  # fmt: skip
    assert globals_first(["predict", "--registry=r", "--", "--debug"]) == ["--registry=r", "predict", "--", "--debug"]


def test_registry_option_is_used(capsys):
    Path("other.yaml").write_text("plugins: {vq: {enabled: false}}")
    assert run("plugins", "list", "--json", "--registry", "other.yaml") == 0
    assert '"state": "off"' in capsys.readouterr().out


def test_new_plugin_is_written_and_entered(capsys):
    assert run("plugins", "new", "my_task") == 0
    assert Path("registry.yaml").read_text() == "schema: 1\nplugins:\n  my_task: {path: ./my_task.py}\n"
    assert run("plugins", "new", "second") == 0
    assert "\n  my_task: {path: ./my_task.py}" in Path("registry.yaml").read_text()
    compile(Path("my_task.py").read_text(), "my_task.py", "exec")
    assert len(Path("my_task.py").read_text().splitlines()) < 80, "a new task must fit on a page or two"
    assert "class MyTask(Task)" in Path("my_task.py").read_text() and Path("test_my_task.py").is_file()
    capsys.readouterr()
    assert run("plugins", "list") == 0
    assert "task my_task" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["My-Task"], "cannot be a plugin's name"),
        (["class"], "cannot be a plugin's name"),
        (["float", "--kind", "task"], "PyTorch uses the name 'float' itself: choose another one, like 'my_float'"),
        (["signal"], "Python uses the name 'signal' itself: choose another one, like 'my_signal'"),
        (["torch"], "an installed package uses the name 'torch' itself"),
        (["vq"], "has a plugin 'vq' already"),
        (["fine", "--kind", "tusk"], "did you mean 'task'"),
    ],
)
def test_new_plugin_with_an_unfit_name_is_refused(arguments, message, capsys):
    assert run("plugins", "new", *arguments) == 2
    assert message in capsys.readouterr().err and list(Path().iterdir()) == []


def test_new_plugin_leaves_the_packaged_registry_alone(capsys, monkeypatch):
    """In a checkout ./registry.yaml is Cynosure's own: the first command a reader tries must not change it."""
    Path("registry.yaml").write_text("schema: 1\nplugins: {vq: {module: cynosure_plugins.quantizers.vq}}\n")
    monkeypatch.setattr("cynosure.cli.scaffold.packaged_registry", lambda: Path("registry.yaml"))
    assert run("plugins", "new", "mine") == 2
    assert "mkdir my-task && cd my-task" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["registry.yaml"]
    assert run("plugins", "new", "mine", "--directory", "own") == 0


def test_new_plugin_overwrites_nothing(capsys):
    Path("mine.py").write_text("precious")
    assert run("plugins", "new", "mine") == 2
    assert Path("mine.py").read_text() == "precious" and not Path("registry.yaml").exists()


USES_THE_HOST = """
import numpy as np
import typer
from cynosure import hookimpl
from cynosure.cli.app import host_of

@hookimpl
def cynosure_render(prediction):
    return np.zeros((2, 4, 3), np.uint8)

@hookimpl
def cynosure_commands(app):
    @app.command()
    def draw(context: typer.Context):
        print(host_of(context).render("a prediction").shape)
"""


@pytest.fixture
def only_own_plugins(monkeypatch):
    from cynosure.registry import load_registry

    monkeypatch.setenv("CYNOSURE_DISABLE", ",".join(load_registry().builtin))


def test_trace_hooks_prints_calls_on_the_error_stream(only_own_plugins, capsys):
    write_plugin(USES_THE_HOST)
    assert run("draw", "--trace-hooks") == 0
    captured = capsys.readouterr()
    assert captured.out == "(2, 4, 3)\n"
    assert "hook cynosure_render(prediction='a prediction'): mine\n" in captured.err


def test_failed_plugin_warns_and_strict_stops(only_own_plugins, capsys):
    write_plugin(USES_THE_HOST)
    Path("broken.py").write_text("import nothing_there")
    Path("registry.yaml").write_text(Path("registry.yaml").read_text() + "  broken: {path: broken.py}\n")
    assert run("draw") == 0
    assert "plugin 'broken' failed (import): ModuleNotFoundError" in capsys.readouterr().err
    assert run("draw", "--strict-plugins") == 2
    assert "plugin 'broken' failed" in capsys.readouterr().err
