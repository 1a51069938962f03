"""Encoder `vit` starts from published ViTs: Google's .npz of two ages, timm's safetensors, at other picture sizes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cynosure.compat import import_timm
from cynosure.core.initial import initial_weights
from cynosure.core.records import Shapes
from cynosure.core.resize import zoom_positions
from cynosure.errors import CheckpointError
from cynosure.progress import Progress
from cynosure.train.stages import warm_start
from cynosure_plugins.encoders.vit import ViTEncoder
from cynosure_plugins.importers.flax_vit import layer_shapes, transformer_shapes

SHAPES = Shapes((32, 16), {"depth": 1})
SIZES: dict[str, Any] = {"patch": 8, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 32}
TIMM = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
IMAGE = {"image": torch.rand(1, 3, 32, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1}


def encoder(**options: Any) -> ViTEncoder:
    return ViTEncoder(ViTEncoder.Config.model_validate({**SIZES, **options}), SHAPES).eval()


def google(**changes: Any) -> dict[str, np.ndarray]:
    """The arrays of a ViT for classification, named as big_vision and AugReg name them: a 3 x 3 grid, 21 classes."""
    shapes = layer_shapes("embedding", (8, 8, 3, 16), (16,)) | transformer_shapes("Transformer", 2, 16, 2, 32)
    shapes |= layer_shapes("head", (16, 21), (21,)) | layer_shapes("pre_logits", (16, 16), (16,))
    shapes |= {"params/cls": (1, 1, 16), "params/Transformer/posembed_input/pos_embedding": (1, 10, 16), **changes}
    rng = np.random.default_rng(0)
    return {name.removeprefix("params/"): rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def save(file: Path, arrays: dict[str, Any]) -> Path:
    np.savez(file, **arrays)
    return file


def first_years(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With the layers of a block counted together, as AugReg was published."""
    numbers = {"LayerNorm_1": "LayerNorm_2", "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1"}
    numbers |= {"MlpBlock_0": "MlpBlock_3"}
    return {re.sub("|".join(numbers), lambda m: numbers[m[0]], name): value for name, value in arrays.items()}


def test_googles_arrays_arrive_where_they_belong(tmp_path: Path) -> None:
    arrays = google()
    state = encoder(weights=save(tmp_path / "vit.npz", arrays)).state_dict()
    block = "Transformer/encoderblock_1"
    key = arrays[f"{block}/MultiHeadDotProductAttention_0/key/kernel"]
    expected = {
        "transformer.blocks.1.mlp.2.weight": arrays[f"{block}/MlpBlock_0/Dense_1/kernel"].T,
        "transformer.blocks.1.attention.out.bias": arrays[f"{block}/MultiHeadDotProductAttention_0/out/bias"],
        "transformer.norm.weight": arrays["Transformer/encoder_norm/scale"],
        "image_stem.weight": arrays["embedding/kernel"].transpose(3, 2, 0, 1),
    }
    for name, wanted in expected.items():
        np.testing.assert_array_equal(state[name], wanted, err_msg=name)
    np.testing.assert_array_equal(state["transformer.blocks.1.attention.qkv.weight"][16:32], key.reshape(16, 16).T)


def test_the_class_token_goes_and_positions_move(tmp_path: Path) -> None:
    arrays = google()
    table = torch.from_numpy(arrays["Transformer/posembed_input/pos_embedding"])
    moved = encoder(weights=save(tmp_path / "vit.npz", arrays)).positions
    wanted = zoom_positions(table[:, 1:].unflatten(1, (3, 3)), (4, 2)).flatten(1, 2)
    torch.testing.assert_close(moved.detach(), wanted)
    torch.testing.assert_close(moved[0, 0].detach(), table[0, 1])  # the corner stays where it is


def test_names_of_every_age_give_the_same_encoder(tmp_path: Path) -> None:
    arrays = google()
    new = encoder(weights=save(tmp_path / "new.npz", arrays))
    table = arrays.pop("Transformer/posembed_input/pos_embedding")
    old = encoder(weights=save(tmp_path / "old.npz", first_years({**arrays, "params/pos_embedding": table})))
    assert torch.equal(new(IMAGE, "depth"), old(IMAGE, "depth"))


def test_timms_vit_gives_timms_features(tmp_path: Path) -> None:
    """Up to its GELU, which timm computes exactly and Google's ViTs by tanh."""
    vit = import_timm().models.vision_transformer.VisionTransformer(
        img_size=(32, 32),
        num_classes=3,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        act_layer="gelu_tanh",
        **TIMM,
    )
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    ours = ViTEncoder(ViTEncoder.Config(**SIZES, weights=tmp_path / "vit.safetensors"), Shapes((32, 32), {"depth": 1}))
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = vit.eval().forward_features(image)
        torch.testing.assert_close(ours.eval()({"image": image}, "depth"), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_vit_of_another_size_is_refused_with_what_differs(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"vit.{kind}"
    if kind == "npz":
        save(file, google())
        missing = "encoderblock_2/"
    else:
        save_file(import_timm().models.vision_transformer.VisionTransformer(img_size=32, **TIMM).state_dict(), file)
        missing = "blocks.2."
    with pytest.raises(CheckpointError, match="of another ViT") as error:
        encoder(weights=file, depth=3, mlp_dim=64)
    assert "missing" in str(error.value) and "wrong shape" in str(error.value) and missing in str(error.value)


def test_a_table_that_is_no_square_is_refused(tmp_path: Path) -> None:
    arrays = google(**{"params/Transformer/posembed_input/pos_embedding": (1, 8, 16)})
    with pytest.raises(CheckpointError, match="8 positions, which are no square"):
        encoder(weights=save(tmp_path / "vit.npz", arrays))


def test_weights_are_not_read_when_a_checkpoint_replaces_them(tmp_path: Path) -> None:
    with initial_weights(False):
        encoder(weights=tmp_path / "gone.npz")
    with pytest.raises(CheckpointError, match="there is no file"):
        encoder(weights=tmp_path / "gone.npz")


def test_a_warm_start_leaves_published_weights_alone(tmp_path: Path) -> None:
    """A base of the same size would otherwise replace them name by name."""
    base = encoder()
    for weights, kept in ((save(tmp_path / "vit.npz", google()), True), (None, False)):
        own = encoder(weights=weights)
        before = own.positions.detach().clone()
        model = SimpleNamespace(prior=SimpleNamespace(encoder=own), base=base)
        warm_start(cast(Any, SimpleNamespace(model=model, taken=frozenset(), progress=Progress())))
        assert torch.equal(own.positions, before if kept else base.positions)
