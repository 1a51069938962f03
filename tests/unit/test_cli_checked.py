"""Mistakes on the command line are found before anything long runs, and cost no result."""

import json
from pathlib import Path

import pytest

from cynosure.cli import evaluate as command
from cynosure.cli.app import main
from cynosure.cli.checked import check_device, write_text
from cynosure.errors import CynosureError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CYNOSURE_REGISTRY", raising=False)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


@pytest.mark.parametrize("arguments", [["predict", "run", "photo.jpg"], ["eval", "run"]], ids=" ".join)
def test_unknown_device_is_one_sentence(arguments, capsys):
    assert run(*arguments, "--device", "foo") == 2
    said = capsys.readouterr().err
    assert "there is no device 'foo'" in said and "write cpu" in said and said.count("\n") == 1


def test_device_that_this_machine_lacks_is_one_sentence():
    assert check_device("cpu") == "cpu" and check_device(None) is None
    with pytest.raises(CynosureError, match="there is no device 'cuda:99'"):
        check_device("cuda:99")


def test_eval_says_early_that_its_file_cannot_be_written(capsys):
    Path("file").write_text("in the way")
    assert run("eval", "no-run", "--json", "file/metrics.json") == 2
    said = capsys.readouterr().err
    assert "file/metrics.json cannot be written" in said and said.count("\n") == 1, "before the run is loaded"


def test_eval_prints_its_table_before_it_writes(capsys, monkeypatch):
    """A disk that fills up during a long evaluation must not take the numbers with it."""

    class Report:
        def table(self):
            return "the numbers"

        def to_json(self):
            raise OSError("disk full")

    class Loaded:
        recipe = host = type("Recipe", (), {"eval": type("Eval", (), {"batch_size": 1})})

        def settings(self, **_):
            return None

    monkeypatch.setattr("cynosure.run.loading.load", lambda *_, **__: Loaded())
    monkeypatch.setattr("cynosure.build.Session.open", lambda *_: None)
    monkeypatch.setattr("cynosure.run.evaluate.evaluate", lambda *_, **__: Report())
    monkeypatch.setattr("cynosure.progress._current", None)
    monkeypatch.setattr(command, "host_of", lambda _: None)
    assert run("eval", "run", "--json", "metrics.json") == 1
    assert "the numbers" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["plugins", "schema", "-o", "file/schema.json"],
        ["recipes", "schema", "-o", "file/schema.json"],
        ["recipes", "copy", "unified/tiny", "file/mine.yaml"],
        ["plugins", "new", "mine", "--directory", "file/mine"],
    ],
    ids=" ".join,
)
def test_file_that_cannot_be_written_is_one_sentence(arguments, capsys):
    Path("file").write_text("in the way")
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said and said.count("\n") == 1


def test_folder_in_place_of_a_file_is_one_sentence():
    with pytest.raises(CynosureError, match="it is a folder"):
        write_text(Path(), "text")


def test_registry_schema_is_printed_and_written(capsys):
    assert run("plugins", "schema") == 0
    printed = json.loads(capsys.readouterr().out)
    assert "plugins" in printed["properties"] and printed["$schema"].startswith("https://json-schema.org")
    assert run("plugins", "schema", "-o", "deep/registry.schema.json") == 0
    assert json.loads(Path("deep/registry.schema.json").read_text()) == printed
