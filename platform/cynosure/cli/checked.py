"""What users give on the command line, checked early: a mistake costs a sentence, not the result of a long run."""

from __future__ import annotations

import os
from pathlib import Path

from cynosure.errors import CynosureError


def check_device(name: str | None) -> str | None:
    """`name`, if torch can compute there."""
    if name is None:
        return None
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CynosureError(f"there is no device '{name}' ({reason}): write cpu, cuda or cuda:1") from None
    return name


def check_output(file: Path) -> None:
    """Make the folder of a file that will be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise _unwritable(file, error) from None


def write_text(file: Path, text: str) -> None:
    check_output(file)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(file, error) from None


def _unwritable(file: Path, error: OSError) -> CynosureError:
    return CynosureError(f"{file} cannot be written ({error.strerror or error}): name another file")
