"""Tokenizer and base `vit_vqgan`: their sizes, what they refuse, and that they learn to draw a picture again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import make_model, open_session

from cynosure.core.records import Shapes
from cynosure.errors import CynosureError
from cynosure.testing.samples import shapes
from cynosure_plugins.bases.vit_vqgan import ViTVQGANBase
from cynosure_plugins.quantizers.multiscale import MultiscaleQuantizer
from cynosure_plugins.quantizers.vq import VectorQuantizer
from cynosure_plugins.tokenizers.vit_vqgan import ViTVQGANTokenizer

TINY = {"dim": 32, "depth": 1, "heads": 2, "mlp_dim": 64}


def make_pair(image_size: tuple[int, int], vq: dict[str, Any], **sizes: int) -> tuple[ViTVQGANTokenizer, ViTVQGANBase]:
    before = Shapes(image_size, {"first": 3})
    quantizer = VectorQuantizer(VectorQuantizer.Config(**vq))
    tokenizer = ViTVQGANTokenizer(ViTVQGANTokenizer.Config(**sizes), before, quantizer)
    after = Shapes(image_size, {"first": 3}, tokenizer.spec, quantizer.dim)
    return tokenizer, ViTVQGANBase(ViTVQGANBase.Config(**sizes), after)


@pytest.mark.parametrize(
    ("sizes", "encoder", "decoder"),
    [((512, 8, 8, 2048), 27.9, 27.2), ((768, 12, 12, 3072), 90.7, 88.8), ((1280, 32, 16, 5120), 644.4, 638.5)],
)
def test_published_sizes(sizes: tuple[int, int, int, int], encoder: float, decoder: float) -> None:
    """Millions of parameters, as the documentation of the tokenizer gives them."""
    dim, depth, heads, mlp_dim = sizes
    vq = {"vocab_size": 8192, "dim": dim, "code_dim": 32, "update": "gradient", "min_count": 0}
    with torch.device("meta"):
        tokenizer, base = make_pair((256, 256), vq, dim=dim, depth=depth, heads=heads, mlp_dim=mlp_dim)
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (tokenizer, tokenizer.quantizer, base)]
    assert tokenizer.spec.length == 1024
    assert counts[0] - counts[1] == pytest.approx(encoder, abs=0.05)
    assert counts[2] == pytest.approx(decoder, abs=0.05)


def test_sizes_that_patches_do_not_fill_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tokenizer vit_vqgan: image size \(36, 32\) is not a multiple of 8"):
        make_pair((36, 32), {"vocab_size": 16, "dim": 8}, patch=8, **TINY)
    with pytest.raises(ValueError, match=r"base vit_vqgan: image size \(32, 32\) is not a multiple of 5"):
        ViTVQGANBase(ViTVQGANBase.Config(patch=5, **TINY), shapes())


def test_scales_need_a_square_picture() -> None:
    quantizer = MultiscaleQuantizer(MultiscaleQuantizer.Config(vocab_size=16, dim=8, scales=(1, 2, 4)))
    tokenizer = ViTVQGANTokenizer(ViTVQGANTokenizer.Config(patch=8, **TINY), Shapes((32, 64), {"first": 3}), quantizer)
    with pytest.raises(CynosureError, match="4 x 4 vectors, the tokenizer writes 32"):
        _ = tokenizer.spec


def test_oblong_pictures_come_back_oblong() -> None:
    tokenizer, base = make_pair((16, 32), {"vocab_size": 16, "dim": 8}, patch=8, **TINY)
    encoded = tokenizer(torch.randn(2, 3, 16, 32), {}, "first")
    assert encoded.codes.spec.grid == (2, 4)
    assert base({}, encoded.vectors, "first").shape == (2, 3, 16, 32)


def test_a_picture_is_learnt_by_heart() -> None:
    """Through a narrow codebook of unit length, as published."""
    torch.manual_seed(0)
    vq = {"vocab_size": 64, "dim": 32, "code_dim": 8, "normalize_inputs": True, "update": "gradient"}
    tokenizer, base = make_pair((32, 32), {**vq, "commitment": 0.25, "min_count": 0}, patch=8, **TINY)
    pictures = torch.rand(2, 3, 4, 4).repeat_interleave(8, -1).repeat_interleave(8, -2) * 2 - 1
    optimizer = torch.optim.Adam([*tokenizer.parameters(), *base.parameters()], lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        encoded = tokenizer(pictures, {}, "first")
        error = (base({}, encoded.vectors, "first") - pictures).square().mean()
        (error + sum(encoded.losses.values())).backward()
        optimizer.step()
        tokenizer.quantizer.learn()
    assert float(error.detach()) < 0.1 * float(pictures.var()), f"squared error {float(error.detach()):.3f}"


@pytest.mark.parametrize(
    "quantizer",
    [
        "name: rq, vocab_size: 8, dim: 4, depth: 3",
        "name: fsq, levels: [4, 4, 4], groups: 2",
        "name: lfq, bits: 6",
        "name: latent, sizes: [4, 3, 5]",
        "name: gumbel, vocab_size: 8, dim: 4",
    ],
)
def test_any_quantizer_will_do(quantizer: str, tmp_path: Path) -> None:
    parts = "name: vit_vqgan, patch: 8, dim: 16, depth: 1, heads: 2, mlp_dim: 32"
    session = open_session(
        tmp_path,
        f"model.tokenizer={{{parts}, quantizer: {{{quantizer}}}}}",
        f"model.base={{{parts}}}",
    )
    model = make_model(session)
    assert model.tokenizer is not None and model.prior is not None
    targets = torch.randn(3, 1, 16, 16)
    encoded = model.tokenizer(targets, {}, "depth")
    torch.testing.assert_close(model.tokenizer.vectors(encoded.codes), encoded.vectors)
    assert model.base({}, encoded.vectors, "depth").shape == (3, 1, 16, 16)
