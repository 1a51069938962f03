"""Plain text for people: aligned columns that fit the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns; on a terminal the last column is cut to the window."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if not sys.stdout.isatty():
        return "\n".join(lines)
    room = shutil.get_terminal_size().columns
    return "\n".join(line if len(line) <= room else line[: room - 1] + "…" for line in lines)
