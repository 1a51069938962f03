"""Progress: lines in pipes, one display on a terminal, nothing in libraries."""

from __future__ import annotations

import io

import pytest

from cynosure import progress as module
from cynosure.progress import ConsoleProgress, Progress, current_progress, use_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_a_line_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_EVERY_SECONDS", 0.0)
    with ConsoleProgress().bar("stage codes", 10, done=4) as bar:
        bar.advance(1, "loss 0.500")
    shown = capsys.readouterr()
    assert shown.out == "", "results are piped from standard output"
    assert shown.err.startswith("stage codes: 5/10 · ") and shown.err.endswith("left · loss 0.500\n")


def test_a_pipe_is_not_flooded(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleProgress().bar("work", 1000) as bar:
        for _ in range(1000):
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("work: 1000/1000")


def test_bars_inside_bars_share_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation during training opens a bar under that of the stage, maybe from another ConsoleProgress."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    with ConsoleProgress().bar("outer", 2) as outer:
        with ConsoleProgress().bar("inner", 3) as inner:
            inner.advance(3, "deep")
            assert len(ConsoleProgress._display.tasks) == 2
        assert [task.description for task in ConsoleProgress._display.tasks] == ["outer"], "a finished inner bar stays"
        outer.advance(2)
    assert ConsoleProgress._display is None
    assert "outer" in terminal.getvalue() and "2/2" in terminal.getvalue()


def test_the_terminal_is_free_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with pytest.raises(RuntimeError), ConsoleProgress().bar("work", 1):
        raise RuntimeError
    assert ConsoleProgress._display is None


def test_the_command_line_shows_what_libraries_keep_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_current", Progress())
    shown = ConsoleProgress()
    assert use_progress(shown) is shown and current_progress() is shown


def test_a_library_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.say("hello")
    with progress.bar("work", 1) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")
