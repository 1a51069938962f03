"""Tokenizer, base and optimizer of QLAE in the platform: shapes, sizes, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cynosure.core.records import CodeSpec, Segment, Shapes
from cynosure_plugins.bases.qlae import QLAEBase
from cynosure_plugins.optimizers.qlae_adamw import ElementClippedAdamW, group_options
from cynosure_plugins.quantizers.latent import LatentQuantizer
from cynosure_plugins.quantizers.multiscale import MultiscaleQuantizer
from cynosure_plugins.tokenizers.qlae import QLAETokenizer

PICTURES = Shapes((64, 64), {"picture": 3})


def tokenizer(shapes: Shapes = PICTURES, **options: Any) -> QLAETokenizer:
    quantizer = LatentQuantizer(LatentQuantizer.Config(spread=True))
    return QLAETokenizer(QLAETokenizer.Config.model_validate(options), shapes, quantizer)


def base(shapes: Shapes, **options: Any) -> QLAEBase:
    return QLAEBase(QLAEBase.Config.model_validate(options), shapes)


def test_the_defaults_have_the_published_sizes() -> None:
    """Pictures of 64 x 64 pixels and 12 latents: 3.68 M, 3.97 M and 120 parameters."""
    first = tokenizer()
    second = base(Shapes((64, 64), {"picture": 3}, first.spec, first.code_dim, first.code_positions))
    codes, rest = (sum(p.numel() for p in part.parameters()) for part in (first.quantizer, first))
    assert codes == 120
    assert (rest - codes) / 1e6 == pytest.approx(3.68, abs=0.01)
    assert sum(p.numel() for p in second.parameters()) / 1e6 == pytest.approx(3.97, abs=0.01)


def test_a_number_of_the_code_is_a_position_of_its_own() -> None:
    """So that a prior without depth models them, and `known` can fix single ones."""
    part = tokenizer()
    assert (part.spec.length, part.spec.depth, part.code_positions) == (12, 1, 1)
    assert part.spec.grid == (1, 1), "one vector stands for the whole picture"


@pytest.mark.parametrize("positions", [1, 3])
def test_the_base_takes_any_number_of_positions(positions: int) -> None:
    small: dict[str, Any] = {"widths": (4,), "convolutions": 1, "dense": ()}
    part = tokenizer(Shapes((8, 4), {"picture": 3}), positions=positions, **small)
    shapes = Shapes((8, 4), {"picture": 3}, part.spec, part.code_dim, part.code_positions)
    encoded = part(torch.randn(2, 3, 8, 4), {}, "picture")
    assert base(shapes, **small)({}, encoded.vectors, "picture").shape == (2, 3, 8, 4)


@pytest.mark.parametrize("size", [(60, 64), (16, 16)])
def test_sizes_that_cannot_be_halved_are_named(size: tuple[int, int]) -> None:
    """Instance norm needs at least two pixels, halving an even number of them."""
    with pytest.raises(ValueError, match="halves the picture 4 times"):
        tokenizer(Shapes(size, {"picture": 3}))


def test_a_base_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a tokenizer"):
        base(PICTURES)


def test_the_optimizer_clips_elements_and_spares_biases() -> None:
    """Adam's first step has the sign of the gradient only, so clipping shows in the second moment."""
    layer = nn.Linear(1, 1)
    groups = [{"params": [p], **group_options(name, 0.1)} for name, p in layer.named_parameters()]
    optimizer = ElementClippedAdamW(groups, lr=1e-3)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    (1000 * layer(torch.ones(1, 1))).sum().backward()
    optimizer.step()
    squares = {name: float(optimizer.state[p]["exp_avg_sq"]) for name, p in layer.named_parameters()}
    assert squares["weight"] == pytest.approx(1e-3) and squares["bias"] == pytest.approx(1e3)
    torch.testing.assert_close(layer.bias.detach(), before["bias"] - 1e-3)
    torch.testing.assert_close(layer.weight.detach(), before["weight"] * (1 - 1e-4) - 1e-3)


def test_the_base_reads_as_many_vectors_as_the_tokenizer_writes() -> None:
    """Several segments of several lengths, as multiscale writes them, are still N vectors."""
    small: dict[str, Any] = {"widths": (4,), "convolutions": 1, "dense": ()}
    quantizer = MultiscaleQuantizer(MultiscaleQuantizer.Config(vocab_size=8, dim=3, scales=(1, 2)))
    part = QLAETokenizer(QLAETokenizer.Config(positions=4, **small), Shapes((8, 4), {"picture": 3}), quantizer)
    shapes = Shapes((8, 4), {"picture": 3}, part.spec, part.code_dim, part.code_positions)
    encoded = part(torch.randn(2, 3, 8, 4), {}, "picture")
    assert encoded.codes.ids.shape[1] == 5 and encoded.vectors.shape == (2, 4, 3)
    assert base(shapes, **small)({}, encoded.vectors, "picture").shape == (2, 3, 8, 4)


def test_the_curvature_penalty_makes_layers_see_latents_one_by_one() -> None:
    """It falls when it is trained on, teaches the base alone, and is not there unless asked for."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"widths": (4,), "convolutions": 1, "dense": (8,)}
    shapes = Shapes((4, 4), {"picture": 3}, CodeSpec((Segment("codes", 1, 3, 5),)), 3)
    assert base(shapes, **small).penalties(torch.randn(4, 1, 3), "picture") == {}
    part = base(shapes, curvature=1.0, **small)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
    vectors = torch.rand(16, 1, 3, requires_grad=True)
    found = []
    for _ in range(60):
        (penalty,) = part.penalties(vectors, "picture").values()
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        found.append(float(penalty.detach()))
    assert vectors.grad is None
    assert sum(found[-10:]) < 0.8 * sum(found[:10])


def test_codebooks_decay_no_more_than_the_values_of_codes() -> None:
    """What is compared with QLAE under its optimizer must not have its codebook pulled to zero."""
    layers = {"tokenizer.head.weight", "tokenizer.quantizer.project.weight"}
    books = ("quantizer.weight", "quantizer.codebook.weight", "quantizer.codebooks.0.weight")
    for name in (f"tokenizer.{book}" for book in books):
        assert group_options(name, 0.1, layers) == {"clip_elements": False, "weight_decay": 0.0}, name
    for name in layers:
        assert group_options(name, 0.1, layers) == {"clip_elements": True, "weight_decay": 0.1}, name
