"""Pictures out of segmentations and depth maps, through the command line: a tokenizer of maps, then what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from PIL import Image

from cynosure.build import Session
from cynosure.data.files import palette
from cynosure.data.scenes import CLASSES
from cynosure.run.loading import load
from cynosure.train.checkpoint import MODEL, read_tensors

MAPS = """
schema: 1
image_size: 16
data:
  scenes: {name: scenes, size: 16, train: 12, validation: 4, test: 4}
tasks:
  maps: {data: scenes, kind: segmentation, batch_size: 4}
model:
  tokenizer:
    name: vqgan
    channels: 16
    multipliers: [1, 1, 1]
    blocks: 1
    attention: []
    z_channels: 8
    quantizer: {name: vq, vocab_size: 8, dim: 4, warmup_steps: 2, min_count: 1.0, commitment: 0.25}
  base: {name: vqgan, channels: 16, multipliers: [1, 1, 1], blocks: 1, attention: [], z_channels: 8}
train:
  stages: [codes]
  codes: {steps: 4, lr: 3e-3}
eval: {batch_size: 4, limit: 4}
"""
PICTURES = """
base: ./maps.yaml
tasks: {maps: null, generation: {data: scenes, condition: segmentation, batch_size: 4, augment: crop}}
model:
  prior:
    name: gpt
    dim: 16
    depth: 1
    heads: 2
    mlp_dim: 32
    two_way_prefix: true
    task_tokens: false
    encoder:
      name: codes
      weights: maps
      field: panoptic
      channels: CLASSES
      dim: 16
      tokenizer: {channels: 16, multipliers: [1, 1, 1], blocks: 1, attention: [], z_channels: 8}
      quantizer: {vocab_size: 8, dim: 4, warmup_steps: 2, min_count: 1.0, commitment: 0.25}
train:
  stages: [codes, prior]
  prior: {steps: 4, lr: 2e-2, views: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the runs maps and pictures, of segmentations."""
    folder = tmp_path_factory.mktemp("conditions")
    (folder / "maps.yaml").write_text(MAPS)
    (folder / "pictures.yaml").write_text(PICTURES.replace("CLASSES", str(len(CLASSES) + 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert command("train", "maps.yaml", "--output", "maps") == 0
        assert command("train", "pictures.yaml", "--output", "pictures") == 0
    return folder


def tokenizer_of(run: Path, prefix: str) -> Mapping[str, torch.Tensor]:
    tensors, _ = read_tensors(run / MODEL)
    start = f"{prefix}tokenizer."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def test_the_tokenizer_of_maps_is_taken_over_and_stands_still(folder: Path) -> None:
    given, taken = tokenizer_of(folder / "maps", ""), tokenizer_of(folder / "pictures", "prior.encoder.")
    assert len(given) == len(taken)
    for name, tensor in given.items():
        assert torch.equal(taken[name.replace("conv_in.maps", "conv_in.panoptic")], tensor), f"{name} has changed"


def test_a_segmentation_becomes_pictures(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a folder of files, however many at a time; the same seed gives the same."""
    (tmp_path / "in").mkdir()
    for number in range(2):
        classes = np.full((24, 30), number, np.uint8)
        classes[8:20] = 3
        Image.fromarray(classes).save(tmp_path / "in" / f"{number}.png")
    for name, more in {"a": [], "b": ["--batch-size", 1], "c": ["--seed", 1]}.items():
        assert (
            command("predict", folder / "pictures", tmp_path / "in", "--samples", 2, "-o", tmp_path / name, *more) == 0
        )
    made = {name: [file.read_bytes() for file in sorted((tmp_path / name).glob("*.png"))] for name in "abc"}
    assert len(made["a"]) == 4 and made["a"] == made["b"] != made["c"]
    assert Image.open(tmp_path / "a" / "0.generation-1.png").size == (16, 16)
    assert command("predict", folder / "pictures", tmp_path / "in", "--grid", "-o", tmp_path / "sheet") == 0
    with Image.open(tmp_path / "sheet/grid.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24) or ()}
    shown = palette(256, vivid=False)[[0, 1, 3]].tolist()
    assert {tuple(colour) for colour in shown} <= colours, "the maps are not shown"
    assert command("generate", folder / "pictures") == 2
    assert "from a segmentation, whose file `cynosure predict` reads" in capsys.readouterr().err


def test_rows_of_the_data_are_predicted_and_evaluated(folder: Path, tmp_path: Path) -> None:
    predictor = load(folder / "pictures")
    row = Session.open(predictor.recipe, predictor.host).rows("generation", "test")[0]
    assert predictor.predict({"panoptic": row["panoptic"]}).image().shape == (16, 16, 3)
    assert command("eval", folder / "pictures", "--json", tmp_path / "report.json") == 0
    (task,) = json.loads((tmp_path / "report.json").read_text())["tasks"].values()
    assert task["codes"]["prior"]["nats per code"] > 0


def test_maps_are_reconstructed(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "classes.png"
    Image.fromarray(np.full((24, 30), 2, np.uint8)).save(file)
    assert command("predict", folder / "maps", file, "--codes", "oracle", "-o", tmp_path / "made") == 0
    assert Image.open(tmp_path / "made" / "classes.maps.png").size == (16, 16)
    assert command("eval", folder / "maps") == 0


def test_a_dry_run_needs_no_run_of_maps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert command("train", "pictures.yaml", "--dry-run", "--set", "model.prior.encoder.weights=missing") == 0
    said = capsys.readouterr()
    assert "encoder codes: there is no run missing" in said.out + said.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("encoder.weights=missing", "missing"),
        ("encoder.quantizer.normalize=false", "has another quantizer.normalize: copy the options"),
        ("encoder.tokenizer.groups=8", "has another tokenizer.groups: copy the options"),
        ("encoder.channels=3", "encoder.conv_in.panoptic.weight is [16, 12, 3, 3], wanted [16, 3, 3, 3]"),
        ("encoder.field=depth", "task 'generation' gives no 'depth', only: panoptic"),
    ],
)
def test_what_does_not_fit_is_said(
    folder: Path,
    change: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert command("train", "pictures.yaml", "-o", tmp_path / "run", "--set", f"model.prior.{change}") == 2
    assert said.replace("12", str(len(CLASSES) + 1)) in capsys.readouterr().err
