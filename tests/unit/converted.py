"""What tests of imported tokenizers and priors of pictures share: reference arrays, and runs made from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import cynosure
from cynosure.core.records import Batch, SampleSettings
from cynosure.errors import CheckpointError
from cynosure.host import Host
from cynosure.run.convert import convert
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers import vqgan_names
from cynosure_plugins.importers.archive import random_arrays
from cynosure_plugins.importers.recipes import TASK

SMALL = {"resolution": 8, "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "z_channels": 8, "attn_resolutions": [4]}
"""A network of 4 x 4 codes that is no reference, where one is needed to hold a prior."""
GREEDY = SampleSettings(temperature=0.0)
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
Arrays = dict[str, np.ndarray]


def golden(name: str) -> Arrays:
    with np.load(GOLDEN / name) as file:
        return dict(file)


def weights(arrays: Arrays, prefix: str = "sd/") -> Arrays:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def save(file: Path, arrays: Mapping[str, Any], **more: Any) -> Path:
    """As Lightning and kakaobrain write them."""
    state = {name: torch.tensor(value) for name, value in arrays.items()}
    torch.save({"epoch": 3, "global_step": 7, "state_dict": state, **more}, file)
    return file


def settings(file: Path, values: Any) -> Path:
    file.write_text(yaml.safe_dump(values))
    return file


def small_rqvae(folder: Path, book: np.ndarray, depth: int) -> list[Path]:
    """RQ-VAE of 2 x 2 codes of some codewords, the last of which is padding."""
    config = VQGANConfig(channels=32, multipliers=(1, 1), blocks=1, attention=(), z_channels=8)
    dim = book.shape[1]
    arrays = random_arrays(vqgan_names.tokenizer(TASK, config, dim) | vqgan_names.base(TASK, config, dim))
    for i in range(depth):
        name = f"quantizer.codebooks.{i}"
        arrays |= {f"{name}.weight": book, f"{name}.cluster_size_ema": np.ones(len(book) - 1, np.float32)}
        arrays[f"{name}.embed_ema"] = book[:-1]
    hparams = {"shared_codebook": True, "decay": 0.99, "code_shape": [2, 2, depth]}
    ddconfig = {**SMALL, "resolution": 4, "attn_resolutions": []}
    told = {"arch": {"type": "rq-vae", "hparams": hparams, "ddconfig": ddconfig}}
    return [save(folder / "stage1.pt", arrays), settings(folder / "stage1.yaml", told)]


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
