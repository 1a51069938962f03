"""The command line, called in this process."""

from __future__ import annotations

import pytest

from cynosure.cli.app import main


def command(*words: object) -> int:
    """Exit code of `cynosure WORDS`."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)
