"""Stopping a run: the step in progress is finished and saved; a second interrupt, a moment later, stops at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from cynosure.errors import TrainingError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 1.0
"""Seconds in which one stop may reach a process several times: from a scheduler, and passed on by its launcher."""
NOTICE = b"\nstopping after this step; interrupt again to stop at once.\n"


class Stopped(TrainingError):
    """The user stopped the run; it can go on with --resume."""

    exit_code = 130


class StopSignal:
    """While active, an interrupt or termination only sets `requested`, so that no step is left half done.

    A request that nobody acted on is delivered again at the end. Does nothing outside the main thread.
    """

    def __init__(self, notice: bool = True) -> None:
        self.notice = notice
        self.requested = False
        self._number = signal.SIGINT
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.requested and error is None:
            signal.raise_signal(self._number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGINT and time.monotonic() - self._since > GRACE:
                raise KeyboardInterrupt
            return
        self.requested, self._number, self._since = True, signal.Signals(number), time.monotonic()
        if self.notice:
            os.write(2, NOTICE)  # print is not safe in a handler: it may have interrupted another print
