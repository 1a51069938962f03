"""What tests of imported tokenizers and priors of pictures share: reference arrays, and runs made from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import cynosure
from cynosure.core.records import Batch
from cynosure.errors import CheckpointError
from cynosure.host import Host
from cynosure.run.convert import convert
from cynosure_plugins.importers.recipes import TASK

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
Arrays = dict[str, np.ndarray]


def golden(name: str) -> Arrays:
    with np.load(GOLDEN / name) as file:
        return dict(file)


def weights(arrays: Arrays, prefix: str = "sd/") -> Arrays:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def refused(source: str, files: list[Path], folder: Path, host: Host) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert(source, files, folder / "out", host)
    assert not (folder / "out" / "model.safetensors").exists(), "a refused checkpoint leaves no model behind"
    return str(caught.value)


def model(folder: Path, host: Host) -> Any:
    return cynosure.load(folder, device="cpu", host=host).model


def read_recipe(folder: Path) -> Any:
    return yaml.safe_load((folder / "recipe.yaml").read_text())


def batch(images: Any) -> Batch:
    rows = len(images)
    rgb = torch.as_tensor(images)
    return Batch(TASK, {}, {"rgb": rgb}, torch.arange(rows), torch.ones(rows, dtype=torch.bool))


def same(found: torch.Tensor, wanted: Any, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), atol=atol, rtol=1e-5)
