"""Encoders `timm` and `text`: names, sizes, weights and bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cynosure import compat
from cynosure.compat import import_timm
from cynosure.core.records import Shapes
from cynosure.errors import CheckpointError, CynosureError, DataError
from cynosure_plugins.encoders.text import PAD, TextEncoder, byte_tokens
from cynosure_plugins.encoders.timm import TimmEncoder
from cynosure_plugins.encoders.words import WordsEncoder, word_rows

SHAPES = Shapes((64, 32), {"depth": 1})
VIT, CONV = "vit_tiny_patch16_224", "resnet10t"


def timm_encoder(**options: object) -> TimmEncoder:
    return TimmEncoder(TimmEncoder.Config.model_validate(options), SHAPES).eval()


@pytest.mark.parametrize(("model", "tokens"), [(VIT, 8), (CONV, 2), ("swin_tiny_patch4_window7_224", 2)])
def test_tokens_cover_the_picture_row_by_row(model: str, tokens: int) -> None:
    encoder = timm_encoder(model=model)
    image = torch.zeros(1, 3, 64, 32)
    changed = image.clone()
    changed[:, :, 48:] = 1  # the last quarter
    with torch.no_grad():
        before, after = encoder({"image": image}, "depth"), encoder({"image": changed}, "depth")
    assert before.shape == (1, tokens, encoder.dim)
    change = (after - before).abs().sum(-1)[0]
    assert change.argmax() >= tokens // 2, "the tokens that change most must lie where the picture changed"


def test_images_are_normalised_as_the_model_was_trained() -> None:
    encoder = timm_encoder(model=CONV)
    cfg = encoder.backbone.pretrained_cfg
    image = torch.rand(1, 3, 64, 32) * 2 - 1
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    wanted = ((image + 1) / 2 - mean) / std
    assert torch.allclose(image * encoder.scale + encoder.shift, wanted, atol=1e-6)


def test_an_unknown_model_suggests_the_closest() -> None:
    with pytest.raises(CynosureError, match="did you mean 'vit_tiny_patch16_224'"):
        timm_encoder(model="vit_tiny_patc16_224")


def test_published_weights_without_a_network_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network\nlong story")

    monkeypatch.setattr(import_timm().models._builder, "load_state_dict_from_hf", offline)
    with pytest.raises(CynosureError, match="did not arrive from the Hugging Face hub") as error:
        timm_encoder(model=VIT, pretrained=True)
    assert "\n" not in str(error.value)


def test_weights_come_from_a_local_file_and_fit_another_image_size(tmp_path: Path) -> None:
    published = import_timm().create_model(VIT)  # 224 pixels, with its classifier
    save_file(published.state_dict(), tmp_path / "vit.safetensors")
    encoder = timm_encoder(model=VIT, weights=tmp_path / "vit.safetensors")
    assert torch.equal(encoder.backbone.blocks[3].mlp.fc1.weight, published.blocks[3].mlp.fc1.weight)
    assert encoder({"image": torch.zeros(1, 3, 64, 32)}, "depth").isfinite().all()


@pytest.mark.parametrize("origin", ["file", "hub"])
def test_positions_move_with_their_corners_in_place(
    origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = import_timm().create_model(VIT)  # a class token and 14 x 14 patches
    if origin == "file":
        save_file(published.state_dict(), tmp_path / "vit.safetensors")
        encoder = timm_encoder(model=VIT, weights=tmp_path / "vit.safetensors", positions="linear")
    else:
        hub = import_timm().models._builder
        monkeypatch.setattr(hub, "load_state_dict_from_hf", lambda *args, **kwargs: dict(published.state_dict()))
        encoder = timm_encoder(model=VIT, pretrained=True, positions="linear")
    assert torch.equal(encoder.backbone.blocks[3].mlp.fc1.weight, published.blocks[3].mlp.fc1.weight)
    table, moved = published.pos_embed, encoder.backbone.pos_embed
    assert torch.equal(moved[:, 0], table[:, 0]), "the class token keeps its position"
    grid = torch.nn.functional.interpolate(
        table[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2), (4, 2), mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(moved[:, 1:], grid.flatten(2).transpose(1, 2))


def test_positions_that_do_not_exist_cannot_move() -> None:
    with pytest.raises(CynosureError, match="no position table"):
        timm_encoder(model=CONV, positions="linear")


def test_weights_that_fit_in_part_are_refused(tmp_path: Path) -> None:
    state = import_timm().create_model(CONV, num_classes=0).state_dict()
    del state["layer1.0.conv1.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight"):
        timm_encoder(model=CONV, weights=tmp_path / "part.safetensors")


def test_a_file_that_is_no_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        timm_encoder(model=CONV, weights=tmp_path / "broken.safetensors")


def test_a_frozen_backbone_never_changes() -> None:
    encoder = timm_encoder(model=CONV, frozen=True)
    encoder.train().requires_grad_(True)  # what a training stage does
    assert not list(encoder.parameters()), "an optimizer would find parameters to change"
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder({"image": torch.rand(2, 3, 64, 32)}, "depth")
    changed = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
    assert not changed, f"a forward pass in training mode changed {changed}"


def test_only_the_known_fault_of_torchvision_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("CUDA driver is too old")

    monkeypatch.setattr(compat, "import_module", broken)
    with pytest.raises(RuntimeError, match="driver"):
        compat.repair_torchvision.__wrapped__()


def test_a_missing_torchvision_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(compat, "import_module", absent)
    compat.repair_torchvision.__wrapped__()


def test_bytes_are_tokens_cut_and_padded() -> None:
    tokens = byte_tokens(["ab", "", "größer"], 4)
    assert tokens.tolist() == [[97, 98, PAD, PAD], [PAD] * 4, list("größer".encode()[:4])]


def test_a_task_without_text_is_told_what_it_has() -> None:
    options = {"dim": 8, "depth": 1, "heads": 2, "mlp_dim": 8, "length": 4}
    encoder = TextEncoder(TextEncoder.Config.model_validate(options), SHAPES)
    with pytest.raises(DataError, match="image"):
        encoder({"image": torch.zeros(1, 3, 64, 32)}, "depth")


def test_words_have_the_same_rows_wherever_they_stand_and_however_they_are_written() -> None:
    rows = word_rows(["A red box, a RED cone", "", "größer"], 5, 2048)
    assert rows.shape == (3, 5, 2) and (rows[0] < 2048).all()
    assert (rows[0, 1] != rows[0, 2]).any() and (rows[0, 0] == rows[0, 4]).all()
    assert (rows[1] == 2048).all() and (rows[2, 1:] == 2048).all()
    assert rows[0, 1].tolist() == [269, 559], "checkpoints rely on the rows that a word has had"


def test_no_two_words_of_a_large_vocabulary_are_one() -> None:
    words = [f"word{i}" for i in range(20_000)]
    rows = {tuple(row) for row in word_rows([" ".join(words)], len(words), 2048)[0].tolist()}
    assert len(rows) > 0.99 * len(words), f"{len(words) - len(rows)} of {len(words)} words share both rows with another"


def test_an_order_of_words_matters_and_what_follows_the_cut_does_not() -> None:
    torch.manual_seed(0)
    encoder = WordsEncoder(WordsEncoder.Config(dim=8, depth=1, heads=2, mlp_dim=8, length=4), SHAPES).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    left, right, longer = (encoder({"caption": [text]}, "words") for text in ("a b c d", "b a c d", "a b c d e"))
    assert (left - right).abs().max() > 0.1 and torch.equal(left, longer)
    with pytest.raises(DataError, match="no strings in input 'caption'; set its field to one of: image"):
        encoder({"image": torch.zeros(1, 3, 64, 32)}, "depth")
