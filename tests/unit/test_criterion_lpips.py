"""Criterion `lpips`: its files, and the stand-in that needs none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from cynosure.core.records import Shapes
from cynosure.errors import CheckpointError
from cynosure_plugins.criteria import vgg
from cynosure_plugins.criteria.lpips import LPIPS

SHAPES = Shapes((32, 32), {"picture": 3})
A, B = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in (0, 1))


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A VGG16 of few channels by our names: '0.weight', ..., 'lin0.weight', ..."""
    monkeypatch.setattr(vgg, "WIDTHS", (2, 3, 4, 5, 5))
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).abs() for name, shape in vgg._shapes().items()}


def split(arrays: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What torchvision's file has, and what that of LPIPS's heads has."""
    network = {f"features.{name}": t for name, t in arrays.items() if not name.startswith("lin")}
    heads = {name.replace(".weight", ".model.1.weight"): t for name, t in arrays.items() if name.startswith("lin")}
    return network | {"classifier.0.weight": torch.zeros(2, 2)}, heads


def make(**options: Any) -> LPIPS:
    return LPIPS(LPIPS.Config(**options), SHAPES)


def distance(criterion: LPIPS, a: torch.Tensor = A, b: torch.Tensor = B) -> torch.Tensor:
    return criterion(a, b, "picture", a.mean(), None)["lpips"]


def test_every_format_gives_the_same_distance(arrays: dict[str, torch.Tensor], tmp_path: Path) -> None:
    network, heads = split(arrays)
    save_file(network, tmp_path / "vgg.safetensors")
    save_file(heads, tmp_path / "heads.safetensors")
    torch.save(network, tmp_path / "vgg16.pth")
    torch.save(heads, tmp_path / "vgg.pth")
    torch.save(network, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    taming = {f"loss.perceptual_loss.{name.replace('features', 'net.slice1')}": t for name, t in network.items()}
    taming |= {f"loss.perceptual_loss.{name}": t for name, t in heads.items()}
    torch.save({"state_dict": taming}, tmp_path / "last.ckpt")
    files = [("vgg.safetensors", "heads.safetensors"), ("vgg16.pth", "vgg.pth"), ("old.pth", "vgg.pth")]
    found = [distance(make(weights=str(tmp_path / a), heads=str(tmp_path / b))) for a, b in files]
    found.append(distance(make(weights=str(tmp_path / "last.ckpt"))))
    assert found[0] > 0 and all(torch.equal(each, found[0]) for each in found)


def test_files_that_do_not_do_say_what_would(arrays: dict[str, torch.Tensor], tmp_path: Path) -> None:
    network, heads = split(arrays)
    save_file(network, tmp_path / "vgg.safetensors")
    save_file(heads, tmp_path / "heads.safetensors")
    save_file({**network, "features.0.weight": torch.zeros(7, 3, 3, 3)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")

    def error(weights: str, heads: str | None = None) -> str:
        with pytest.raises(CheckpointError) as raised:
            make(weights=str(tmp_path / weights), heads=str(tmp_path / heads) if heads else None)
        return str(raised.value)

    assert "no file" in error("nothing.pth")
    assert "lin0.weight" in error("vgg.safetensors") and "give LPIPS's heads" in error("vgg.safetensors")
    assert "give torchvision's VGG16" in error("heads.safetensors")
    assert "0.weight is [7, 3, 3, 3]" in error("other.safetensors", "heads.safetensors")
    assert "cannot be read" in error("cut.pth", "heads.safetensors")


@pytest.mark.parametrize("options", [{}, {"network": "random", "weights": "vgg.pth"}])
def test_network_and_files_must_agree(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="network"):
        LPIPS.Config(**options)


def test_stand_in_grows_with_what_is_seen_and_is_the_same_every_time() -> None:
    torch.manual_seed(1)
    one = make(network="random")
    torch.manual_seed(2)
    other = make(network="random", weight=2.0)
    assert distance(one, A, A) == 0
    assert 0 < distance(one, A, 0.9 * A) < distance(one)
    torch.testing.assert_close(distance(other), 2 * distance(one))


def test_network_is_neither_trained_nor_saved() -> None:
    criterion = make(network="random")
    assert not criterion.state_dict() and not list(criterion.parameters())


def test_gradient_is_finite_where_features_are_all_zero(arrays: dict[str, torch.Tensor], tmp_path: Path) -> None:
    network, heads = split({name: 0 * t if name in ("2.weight", "2.bias") else t for name, t in arrays.items()})
    save_file({**network, **heads}, tmp_path / "dead.safetensors")
    a = A.clone().requires_grad_()
    distance(make(weights=str(tmp_path / "dead.safetensors")), a).backward()
    assert a.grad is not None and bool(a.grad.isfinite().all())


def test_pictures_that_the_last_stage_cannot_see_are_an_error_of_the_build() -> None:
    with pytest.raises(ValueError, match="16 pixels or more"):
        LPIPS(LPIPS.Config(network="random"), Shapes((8, 8), {"picture": 3}))
