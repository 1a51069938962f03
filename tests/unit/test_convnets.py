"""Convolutional tokenizers and bases: what their sizes must fit, which tasks share what, and the fast upsampling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cynosure.core.records import CodeSpec, Segment, Shapes
from cynosure_plugins.bases.maskgit import MaskGITBase
from cynosure_plugins.bases.vqgan import VQGANBase
from cynosure_plugins.convnets import maskgit, vqgan
from cynosure_plugins.convnets.layers import Upsample
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.quantizers.rq import ResidualQuantizer
from cynosure_plugins.quantizers.vq import VectorQuantizer
from cynosure_plugins.tokenizers.maskgit import MaskGITTokenizer
from cynosure_plugins.tokenizers.vqgan import VQGANTokenizer

SMALL = {"channels": 32, "multipliers": (1, 1, 1), "blocks": 1}
VQGAN = {**SMALL, "attention": (2,), "z_channels": 4}
CHANNELS = {"picture": 3, "depth": 1}


def vq(dim: int = 8) -> VectorQuantizer:
    return VectorQuantizer(VectorQuantizer.Config(vocab_size=16, dim=dim))


def coded(grid: tuple[int, int], image_size: tuple[int, int], dim: int = 8) -> Shapes:
    return Shapes(image_size, CHANNELS, CodeSpec((Segment("codes", grid[0] * grid[1], 1, 16),), grid), dim)


@pytest.mark.parametrize(("kind", "options"), [(VQGANTokenizer, VQGAN), (MaskGITTokenizer, SMALL)])
def test_tokenizers_name_a_size_they_cannot_take(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"image size \(32, 30\) is not a multiple of 4"):
        kind(kind.Config(**options), Shapes((32, 30), CHANNELS), vq())


@pytest.mark.parametrize(("kind", "options"), [(VQGANBase, VQGAN), (MaskGITBase, SMALL)])
def test_bases_name_a_size_they_cannot_take_and_ask_for_codes(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"image size \(30, 32\) is not a multiple of 4"):
        kind(kind.Config(**options), coded((8, 8), (30, 32)))
    with pytest.raises(ValueError, match="needs a tokenizer with a code grid"):
        kind(kind.Config(**options), Shapes((32, 32), CHANNELS))


def test_fold_must_divide_the_width_and_the_grid() -> None:
    with pytest.raises(ValueError, match="width 6 cannot stand for 2 x 2 latents"):
        VQGANTokenizer(VQGANTokenizer.Config(**VQGAN, fold=2), Shapes((32, 32), CHANNELS), vq(6))
    with pytest.raises(ValueError, match=r"fold 3 .* not a multiple of 12"):
        VQGANTokenizer(VQGANTokenizer.Config(**VQGAN, fold=3), Shapes((32, 32), CHANNELS), vq(9))


def test_attention_names_levels_that_exist() -> None:
    with pytest.raises(ValueError, match=r"levels \[3\], there are 0 to 2"):
        VQGANConfig(multipliers=(1, 1, 1), attention=(3,))


def test_norms_have_the_published_groups_and_fewer_where_channels_are_few() -> None:
    assert [VQGANConfig(channels=c).norm_groups for c in (128, 96, 32, 3)] == [32, 24, 8, 1]
    assert VQGANConfig(channels=32, groups=32).norm_groups == 32
    with pytest.raises(ValueError, match="5 groups do not divide the width 32; set groups to a divisor"):
        VQGANConfig(channels=32, groups=5)


@pytest.mark.parametrize(("net", "options"), [(vqgan, VQGAN), (maskgit, SMALL)])
def test_colours_reach_the_codes_of_a_small_net(net: Any, options: dict[str, Any]) -> None:
    """With a group for every channel, norms make a red and a green picture of one pattern the same."""

    @torch.no_grad()
    def likeness(**more: Any) -> float:
        torch.manual_seed(0)
        config = net.VQGANConfig if net is vqgan else net.MaskGITConfig
        encoder = net.Encoder(config(**options, **more), {"picture": 3}, *([8] if net is maskgit else []))
        pattern = torch.rand(1, 1, 32, 32)
        red, green = (pattern * torch.tensor(colour).view(1, 3, 1, 1) - 0.5 for colour in ((1.0, 0, 0), (0, 1.0, 0)))
        return float(F.cosine_similarity(*(encoder(each, "picture").mean((2, 3)) for each in (red, green))))

    assert likeness() < 0.9 < 0.98 < likeness(groups=32)


def test_a_shortcut_may_read_the_input() -> None:
    """Past blocks that change the width the published net passes nothing by: a block that is 0 stops all."""

    @torch.no_grad()
    def share(shortcut: str) -> float:
        torch.manual_seed(0)
        config = maskgit.MaskGITConfig.model_validate({"channels": 32, "shortcut": shortcut})
        block = maskgit.ResidualBlock(32, 64, config)
        nn.init.zeros_(block.conv2.weight)
        return float(block(torch.randn(1, 32, 8, 8)).abs().max())

    assert share("output") == 0 and share("input") > 0.1


def test_a_picture_need_not_be_square() -> None:
    tokenizer = VQGANTokenizer(VQGANTokenizer.Config(**VQGAN), Shapes((16, 24), CHANNELS), vq())
    encoded = tokenizer(torch.rand(2, 1, 16, 24), {}, "depth")
    base = VQGANBase(VQGANBase.Config(**VQGAN), Shapes((16, 24), CHANNELS, tokenizer.spec, tokenizer.code_dim))
    assert tokenizer.spec.grid == (4, 6)
    assert base({}, encoded.vectors, "depth").shape == (2, 1, 16, 24)


def test_tasks_share_all_but_the_layers_at_their_pictures() -> None:
    tokenizer = VQGANTokenizer(VQGANTokenizer.Config(**VQGAN), Shapes((16, 16), CHANNELS), vq())
    base = VQGANBase(VQGANBase.Config(**VQGAN), coded((4, 4), (16, 16)))
    for part, own in ((tokenizer, "encoder.conv_in"), (base, "decoder.conv_out")):
        names = {name for name, _ in part.named_parameters() if any(task in name.split(".") for task in CHANNELS)}
        assert names == {f"{own}.{task}.{kind}" for task in CHANNELS for kind in ("weight", "bias")}


def test_a_base_draws_codes_of_another_grid() -> None:
    base = MaskGITBase(MaskGITBase.Config(**SMALL), coded((2, 3), (16, 24)))
    assert base({}, torch.randn(2, 6, 8), "picture").shape == (2, 3, 16, 24)


def test_soft_codes_begin_with_the_codes_that_are_written() -> None:
    quantizer = ResidualQuantizer(ResidualQuantizer.Config(vocab_size=16, dim=8, depth=3))
    tokenizer = VQGANTokenizer(VQGANTokenizer.Config(**VQGAN, fold=2), Shapes((16, 16), CHANNELS), quantizer).eval()
    picture = torch.rand(2, 3, 16, 16)
    ids, soft = quantizer.soft_codes(tokenizer.bottleneck(picture, {}, "picture"))
    assert torch.equal(ids, tokenizer(picture, {}, "picture").codes.ids)
    assert torch.equal(soft.argmax(-1), ids)


def test_upsampling_is_nearest_neighbours_and_a_convolution() -> None:
    torch.manual_seed(0)
    layer = Upsample(8).double()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    wanted = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)
    found = torch.autograd.grad(layer(x).square().sum(), layer.conv.weight)
    gradient = torch.autograd.grad(wanted.square().sum(), layer.conv.weight)
    torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-10)
