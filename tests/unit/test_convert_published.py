"""Published sizes of tokenizers and priors of pictures are understood, and need no memory of their size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cynosure.config.recipe import make_recipe
from cynosure.host import Host, load_host
from cynosure.run.convert import require_fit
from cynosure_plugins.convnets.maskgit import MaskGITConfig
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers import gpt_names, maskgit, maskgit_names, rqvae, vqgan, vqgan_names
from cynosure_plugins.importers.archive import Archive, wanted_shapes
from cynosure_plugins.importers.arrays import Shape
from cynosure_plugins.importers.configs import Settings
from cynosure_plugins.importers.recipes import TASK
from cynosure_plugins.importers.rq_transformer_names import Sizes, transformer


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


MEASURE = """
import resource, sys
from pathlib import Path
from cynosure.host import load_host
from cynosure.run.convert import convert

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

host, before = load_host(), peak()
convert("rq_transformer", [Path(file) for file in sys.argv[1:3]], Path(sys.argv[3]), host)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    sizes = Sizes(dim=512, body=10, head=2, heads=8, hidden=2048, L=16, D=2, K=64, classes=3, code_dim=4)
    arch = {"type": "rq-transformer", "body": {"block": {"n_head": 8}}}
    state = {name: torch.zeros(shape) for name, shape in wanted_shapes(transformer(sizes)).items()}
    torch.save({"state_dict": state}, tmp_path / "model.pt")
    told = tmp_path / "config.yaml"
    told.write_text(yaml.safe_dump({"arch": arch}))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model.pt"), str(told), str(tmp_path / "out")]
    needed = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert needed < size / 2, f"converting {size >> 20} MiB took {needed >> 20} MiB"


# Published sizes, without a single weight


class Named(Archive):
    """The names and shapes of a published checkpoint."""

    keys = ("state_dict",)

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.path, self.shapes = Path("published"), dict(shapes)

    def __getitem__(self, name: str) -> np.ndarray:
        raise AssertionError(f"{name} is read before it is written")

    @property
    def millions(self) -> float:
        return sum(int(np.prod(shape)) for shape in self.shapes.values()) / 1e6


def published_vqgan(
    K: int, multipliers: tuple[int, ...] = (1, 1, 2, 2, 4), attention: int = 4, channels: int = 3
) -> dict[str, Shape]:
    config = VQGANConfig(multipliers=multipliers, attention=(attention,))
    table = vqgan_names.tokenizer(TASK, config, 256, channels) | vqgan_names.base(TASK, config, 256)
    drawn = {"decoder.conv_out.weight": (channels, 128, 3, 3), "decoder.conv_out.bias": (channels,)}
    return wanted_shapes(table | vqgan_names.vector_quantizer(K, 256)) | drawn


def ddconfig(*multipliers: int, attention: int) -> dict[str, Any]:
    sizes = {"ch": 128, "num_res_blocks": 2, "z_channels": 256, "resolution": 256}
    return {**sizes, "ch_mult": list(multipliers), "attn_resolutions": [attention]}


def fits(imported: Any, host: Host) -> None:
    require_fit(make_recipe(imported.recipe, [], host), imported, host)


def test_the_published_vqgan_for_imagenet_is_understood(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    first = Named(published_vqgan(16384))
    assert round(first.millions, 2) == 76.07
    second = Named(
        wanted_shapes(gpt_names.gpt(48, 1536, 6144, 16384, 16384, 256, 256) | gpt_names.after_label(16384, 1536, 1000))
    )
    assert round(second.millions, 1) == 1410.6
    names = {f"first_stage_model.{k}": v for k, v in first.shapes.items()}
    names |= {f"transformer.{k}": v for k, v in second.shapes.items()}
    names |= {f"transformer.blocks.{i}.attn.mask": (1, 1, 256, 256) for i in range(48)}
    params = {
        "cond_stage_key": "class_label",
        "first_stage_config": {"params": {"ddconfig": ddconfig(1, 1, 2, 2, 4, attention=16)}},
        "transformer_config": {"params": {"n_head": 24}},
    }
    data = {"params": {"train": {"target": "taming.data.imagenet.ImageNetTrain"}}}
    told = Settings(Path("project.yaml"), {"model": {"params": params}, "data": data})
    monkeypatch.setattr(vqgan, "read_files", lambda files: ([Named(names)], [told]))
    imported = vqgan.VQGAN(vqgan.VQGAN.Config()).read([])
    assert imported.recipe["model"]["prior"]["encoder"]["classes"] == 1000
    fits(imported, host)


@pytest.mark.parametrize(
    ("kind", "channels", "task"),
    [
        ("depth", 1, {"depth_maps": "inverse"}),  # D-RIN
        ("segmentation", 182, {"labels": 182, "shift": 0}),  # S-FLCKR
        ("segmentation", 151, {"labels": 151, "shift": 0}),  # ADE20K
        ("segmentation", 183, {"labels": 183, "shift": 1}),  # COCO-Stuff
    ],
)
def test_the_published_vqgans_on_maps_are_understood(
    kind: str, channels: int, task: dict[str, Any], monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    table = gpt_names.gpt(24, 1024, 4096, 1024, 1024, 512, 256, 256)
    transformer = Named(wanted_shapes(table | gpt_names.after_codes(1024, 1024, 512, 1024, 256)))
    assert round(transformer.millions) == 305
    names = {f"transformer.{k}": v for k, v in transformer.shapes.items()}
    names |= {f"transformer.blocks.{i}.attn.mask": (1, 1, 512, 512) for i in range(24)}
    names |= {f"first_stage_model.{k}": v for k, v in published_vqgan(1024).items()}
    names |= {f"cond_stage_model.{k}": v for k, v in published_vqgan(1024, channels=channels).items()}
    stages = {"params": {"ddconfig": ddconfig(1, 1, 2, 2, 4, attention=16)}}
    params = {"cond_stage_key": kind, "first_stage_config": stages, "cond_stage_config": stages}
    params["transformer_config"] = {"params": {"n_head": 16}}
    monkeypatch.setattr(
        vqgan, "read_files", lambda files: ([Named(names)], [Settings(Path("a"), {"model": {"params": params}})])
    )
    imported = vqgan.VQGAN(vqgan.VQGAN.Config()).read([])
    assert imported.recipe["tasks"][TASK].items() >= {"condition": kind, **task}.items()
    fits(imported, host)


def rqvae_files() -> tuple[Named, Settings]:
    """The published RQ-VAE of 8 x 8 x 4 codes and its configuration."""
    multipliers = (1, 1, 2, 2, 4, 4)
    shapes = {n: s for n, s in published_vqgan(1, multipliers, 5).items() if not n.startswith("quantize.")}
    for i in range(4):
        name = f"quantizer.codebooks.{i}"
        shapes |= {f"{name}.weight": (16385, 256), f"{name}.cluster_size_ema": (16384,)}
        shapes[f"{name}.embed_ema"] = (16384, 256)
    hparams = {"shared_codebook": True, "decay": 0.99, "restart_unused_codes": True, "code_shape": [8, 8, 4]}
    arch = {"type": "rq-vae", "hparams": hparams, "ddconfig": ddconfig(*multipliers, attention=8)}
    return Named(shapes), Settings(Path("config.yaml"), {"arch": arch})


@pytest.mark.parametrize(
    ("dim", "body", "head", "heads", "classes", "tokens", "millions"),
    [
        (1536, 12, 4, 24, 1000, 1, 480.9),  # ImageNet
        (1280, 26, 4, 20, 16384, 32, 654.1),  # CC3M
        (2560, 42, 6, 40, 16384, 32, 3903.9),  # CC3M, CC12M and YFCC: 3.9 billion
    ],
)
def test_the_published_rq_transformers_are_understood(
    dim: int,
    body: int,
    head: int,
    heads: int,
    classes: int,
    tokens: int,
    millions: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: Host,
) -> None:
    sizes = Sizes(dim, body, head, heads, 4 * dim, L=64, D=4, K=16384, classes=classes, code_dim=256, tokens=tokens)
    second = Named(wanted_shapes(transformer(sizes)))
    assert round(second.millions, 1) == millions
    arch = {"type": "rq-transformer", "block_size": [8, 8, 4], "embed_dim": dim, "body": {"block": {"n_head": heads}}}
    first, told = rqvae_files()
    configurations = [told, Settings(Path("config.yaml"), {"arch": arch})]
    monkeypatch.setattr(rqvae, "read_files", lambda files, but: ([second, first], configurations))
    files = vocabulary(tmp_path, classes) if tokens > 1 else []
    fits(rqvae.RQTransformer(rqvae.RQTransformer.Config()).read(files), host)


def vocabulary(folder: Path, size: int) -> list[Path]:
    tokens = ["[PAD]", "[UNK]", "a", "b</w>", "ab</w>", *(f"{i}</w>" for i in range(size - 5))]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return [folder / "vocab.json", folder / "merges.txt"]


@pytest.mark.parametrize(("side", "millions"), [(256, 172.46), (512, 173.05)])
def test_the_published_maskgit_is_understood(
    side: int, millions: float, monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    config, codes = MaskGITConfig(), (side // 16) ** 2
    table = maskgit_names.tokenizer(TASK, config, 256) | maskgit_names.base(TASK, config, 256)
    first = Named(wanted_shapes(table | maskgit_names.vector_quantizer(1024, 256)))
    sizes = maskgit_names.Sizes(768, 24, 16, 3072, tokens=2025, places=codes + 1, length=codes)
    second = Named(wanted_shapes(maskgit_names.transformer(sizes)))
    assert (round(first.millions, 2), round(second.millions, 2)) == (54.52, millions)
    found = {"a": first, "b": second}
    monkeypatch.setattr(maskgit, "Msgpack", lambda file: found[file.name])
    imported = maskgit.MaskGIT(maskgit.MaskGIT.Config()).read([Path("a"), Path("b")])
    assert imported.recipe["image_size"] == side and imported.recipe["model"]["prior"]["classes"] == 1000
    fits(imported, host)
