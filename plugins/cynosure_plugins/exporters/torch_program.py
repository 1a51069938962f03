"""Format `torch`: a program of torch.export, which `torch.export.load` reads without Cynosure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cynosure import hookimpl
from cynosure.run.export import metadata, picture_network, traced, write_verified

FORMATS = {"torch": ".pt2"}
METADATA = "cynosure.json"
"""The name of the file inside; `torch.export.load(file, extra_files={METADATA: ""})` fills it in."""


@hookimpl
def cynosure_export(model: Any, format: str, path: Path, task: str | None, style: Sequence[int] | None) -> Path | None:
    if format not in FORMATS:
        return None
    network = picture_network(model, task, style)
    program, told = traced(network), json.dumps(metadata(model, task, style))

    def write(file: Path) -> None:
        with file.open("wb") as opened:
            torch.export.save(program, opened, extra_files={METADATA: told})

    return write_verified(path, network, write, _open)


def _open(file: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    with file.open("rb") as opened:
        return torch.export.load(opened).module()
