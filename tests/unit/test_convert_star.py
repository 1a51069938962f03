"""`cynosure convert star`: released names, with and without those of data-parallel training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from converted import GOLDEN
from safetensors.torch import load_file

from cynosure.errors import CheckpointError
from cynosure.host import Host, load_host
from cynosure.run.convert import convert
from cynosure.run.loading import load


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("variant", ["ori", "half", "sin"])
def test_a_released_checkpoint_enhances(variant: str, prefix: str, tmp_path: Path, host: Host) -> None:
    weights = load_file(GOLDEN / "star" / f"star_{variant}.safetensors")
    with np.load(GOLDEN / "star" / f"star_{variant}_io.npz") as arrays:
        picture, enhanced, strides = arrays["full_u8"][0], arrays["enh_full_sub"][0], arrays["strides"]
    torch.save({prefix + name: tensor for name, tensor in weights.items()}, tmp_path / "best.pth")
    convert("star", [tmp_path / "best.pth"], tmp_path / "out", host)
    found = load(tmp_path / "out", device="cpu", host=host).predict(picture).values["rgb"]
    assert found.shape == picture.shape
    wanted = enhanced.transpose(1, 2, 0) * 255
    np.testing.assert_allclose(found[:: strides[7], :: strides[8]], wanted, atol=0.51)


def test_other_files_are_refused(tmp_path: Path, host: Host) -> None:
    weights = load_file(GOLDEN / "star" / "star_half.safetensors")
    for what, state in {
        "1 missing": {name: tensor for name, tensor in weights.items() if name != "enc_conv.bias"},
        "its width is 7": weights | {"e_conv1.weight": torch.zeros(7, 3, 2, 2)},
        "e_conv1.weight": load_file(GOLDEN / "star" / "transformer_block.safetensors"),
    }.items():
        torch.save(state, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=what):
            convert("star", [tmp_path / "other.pth"], tmp_path / "none", host)
