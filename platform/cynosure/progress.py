"""Progress bars with rate and time left; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

LINE_EVERY_SECONDS = 15.0


class Bar:
    """One piece of long work. `advance` after each unit; `note` shows a few words such as the loss."""

    def advance(self, count: int = 1, note: str = "") -> None: ...


class Progress:
    """Shows nothing: for library use and for every rank but the first."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        yield Bar()

    def say(self, text: str) -> None: ...


_current = Progress()


def use_progress(progress: Progress) -> Progress:
    """Let `progress` show long work that was not handed one, such as preparing data; the command line does this."""
    global _current
    _current = progress
    return progress


def current_progress() -> Progress:
    """What shows long work in this process: nothing, until `use_progress`."""
    return _current


class _RichBar(Bar):
    def __init__(self, display: Any, task: Any) -> None:
        self._display, self._task = display, task

    def advance(self, count: int = 1, note: str = "") -> None:
        self._display.update(self._task, advance=count, note=note)


class _LineBar(Bar):
    """A line now and then, for logs and pipes."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.start = self.last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last < LINE_EVERY_SECONDS and self.done < self.total:
            return
        self.last = now
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        text = f"{self.title}: {self.done}/{self.total} · {rate:.1f}/s · {_clock(left)} left"
        print(f"{text} · {note}" if note else text, file=sys.stderr, flush=True)


class ConsoleProgress(Progress):
    """Rich bars on a terminal, lines elsewhere; on standard error, so that results can be piped."""

    _display: ClassVar[Any] = None
    """What shows the bars; a terminal has room for one, which bars inside bars share."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        if not sys.stderr.isatty():
            yield _LineBar(title, total, done)
        elif (display := ConsoleProgress._display) is not None:
            task = display.add_task(title, total=total, completed=done, note="")
            try:
                yield _RichBar(display, task)
            finally:
                display.remove_task(task)
        else:
            with _rich_display() as display:
                ConsoleProgress._display = display
                try:
                    yield _RichBar(display, display.add_task(title, total=total, completed=done, note=""))
                finally:
                    ConsoleProgress._display = None

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _rich_display() -> Any:
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "", style="cyan")

    columns = (
        progress.TextColumn("{task.description:<24}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
    )
    return progress.Progress(*columns, console=Console(stderr=True), speed_estimate_period=20)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
