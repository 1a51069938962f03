"""Checkpoints of STAR's released code: the network for low light, in its three variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch

from cynosure import hookimpl
from cynosure.core.contracts import Importer, PartConfig
from cynosure.core.records import Imported, Shapes
from cynosure.errors import CheckpointError
from cynosure_plugins.bases.star import Star
from cynosure_plugins.curvenets.star import WIDTHS
from cynosure_plugins.importers.archive import Archive, Part, Table, random_arrays
from cynosure_plugins.importers.arrays import SAME, Made
from cynosure_plugins.importers.configs import read_files

WHAT, TASK = "STAR", "enhancement"
PREFIX = f"base.nets.{TASK}."
PARALLEL = "module."
"""Before all names in files that data-parallel training has written."""
HEADS = 8
MAPS, PICTURE = 24, 256


@final
class STAR(Importer):
    """`.pth` files of STAR-DCE-Ori, -Half and -Sin (zzyfd/STAR-pytorch), with 8 heads, which no array tells.

    Names are the released ones, those of data-parallel training (`module.`) too.
    """

    class Config(PartConfig):
        pass

    TESTING: ClassVar = {"files": lambda folder: _write_tiny(folder)}

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, files: Sequence[Path]) -> Imported:
        checkpoints, configurations = read_files(files)
        if len(checkpoints) > 1 or configurations:
            raise CheckpointError("give one checkpoint and nothing else: it holds everything.")
        whole = checkpoints[0]
        archive = Part(whole, PARALLEL if all(name.startswith(PARALLEL) for name in whole.shapes) else "")
        options = _options(archive)
        table = _table(options)
        if problems := archive.problems(table, WHAT):
            raise CheckpointError("\n".join(problems))
        notes = (f"Its {HEADS} attention heads are taken to be those of the released models: no array tells.",)
        return Imported(_recipe(options), archive.tensors(table), notes)


def _options(archive: Archive) -> dict[str, Any]:
    """Of base `star`. Raises CheckpointError for arrays that are none of the variants."""
    archive.require(["e_conv1.weight"], WHAT)
    width = archive.shapes["e_conv1.weight"][0]
    by_width = {width: name for name, width in WIDTHS.items()} if "out_conv.weight" in archive.shapes else {MAPS: "sin"}
    if width not in by_width:
        archive.refuse([f"its width is {width}, and released models have {' or '.join(map(str, by_width))}"], WHAT)
    return {"variant": by_width[width], "depth": archive.count("transformer.layers."), "heads": HEADS}


def _table(options: Mapping[str, Any]) -> Table:
    with torch.device("meta"):
        state = Star(Star.Config(**options), Shapes((PICTURE, PICTURE), {TASK: MAPS})).nets[TASK].state_dict()
    return {PREFIX + name: Made((name,), SAME, shapes=(tuple(tensor.shape),)) for name, tensor in state.items()}


def _recipe(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image_size": PICTURE,
        "data": {"scenes": {"name": "scenes", "size": PICTURE}},
        "tasks": {TASK: {"data": "scenes"}},
        "model": {"base": {"name": "star", **options}},
        "eval": {"batch_size": 4},
    }


def _write_tiny(folder: Path) -> list[Path]:
    """The smallest variant with random values, as data-parallel training writes it."""
    file = folder / "model.pth"
    arrays = random_arrays(_table({"variant": "half", "depth": 1, "heads": HEADS}))
    torch.save({PARALLEL + name: torch.from_numpy(array) for name, array in arrays.items()}, file)
    return [file]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.importer("star", STAR)
