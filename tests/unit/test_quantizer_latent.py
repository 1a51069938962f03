"""What users of the quantizer `latent` rely on beyond the published arrays: sizes, layouts, kinds of codebook."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from cynosure.errors import CynosureError
from cynosure_plugins.quantizers import codebook
from cynosure_plugins.quantizers.latent import LatentQuantizer


def build(**options: Any) -> LatentQuantizer:
    return LatentQuantizer(LatentQuantizer.Config.model_validate({"sizes": (2, 7, 3), **options}))


def scattered(**options: Any) -> LatentQuantizer:
    """With values that training has moved, in no order."""
    part = build(**options)
    part.values.data.copy_(torch.randn(part.values.shape, generator=torch.Generator().manual_seed(1)))
    return part


@pytest.mark.parametrize("spread", [False, True])
def test_every_id_of_moved_values_leads_to_its_value_and_back(spread: bool) -> None:
    """Ids follow the values as they are now, not the grid that they began with."""
    part = scattered(spread=spread)
    for j, values in enumerate(part.values.split(part.config.sizes)):
        for k, value in enumerate(values):
            vectors = torch.zeros(1, 1, 3)
            vectors[0, 0, j] = value
            out = part(vectors)
            assert int(out.ids.flatten()[j]) == k, f"value {k} of dimension {j} got another id"
            assert torch.equal(part.lookup(out.ids)[0, 0, j], value), f"id {k} of dimension {j} has another value"


def test_spread_ids_are_a_segment_a_dimension() -> None:
    """Both layouts say the same of the same vectors; only the places of the ids differ."""
    vectors = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    deep, wide = scattered(), scattered(spread=True)
    ids = wide(vectors).ids
    assert torch.equal(ids.view(2, 3, 5).transpose(1, 2), deep(vectors).ids)
    assert [(s.length, s.vocab_size) for s in wide.segments(5)] == [(5, 2), (5, 7), (5, 3)]
    assert deep.segments(5)[0].limits == (2, 7, 3)


def test_blocks_of_the_search_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    part, vectors = scattered(), torch.randn(3, 50, 3)
    whole = part(vectors).ids
    monkeypatch.setattr(codebook, "BLOCK_BYTES", 4 * 21 * 7)  # seven vectors at a time
    assert torch.equal(part(vectors).ids, whole)


def test_frozen_values_learn_in_no_stage_and_take_learned_ones() -> None:
    """GuidedModel makes every parameter of a learning part trainable, so frozen values must not be one."""
    frozen = build(codebook="frozen")
    assert not list(frozen.parameters()), "frozen values would learn as soon as a stage begins"
    learned = scattered()
    frozen.load_state_dict(learned.state_dict())
    assert torch.equal(frozen.values, learned.values)
    assert set(frozen(torch.randn(1, 4, 3)).losses) == {"commitment"}


@pytest.mark.parametrize("size", [2, 3, 12, 1024])
def test_the_tanh_grid_keeps_its_ends_and_its_ids(size: int) -> None:
    part = build(sizes=(size,), codebook="tanh")
    assert part.values[0] == -1 and part.values[-1] == 1
    out = part(torch.atanh(part.values.double()).float().clamp(-20, 20).view(1, size, 1))
    assert out.ids.flatten().tolist() == list(range(size))


def test_a_shared_codebook_wants_equal_sizes() -> None:
    assert build(sizes=(4, 4), shared=True).values.shape == (4,)
    with pytest.raises(ValidationError, match="equal sizes"):
        build(shared=True)


def test_tripods_penalty_sees_latents_that_depend_on_each_other() -> None:
    """Independent latents cost little, copies of one another much; the gradient reaches the numbers."""
    part = build(sizes=(12, 12), codebook="tanh", multi_information=1.0)
    numbers = torch.randn(64, 1, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    copies = numbers.detach()[..., :1].expand(-1, -1, 2)
    apart, alike = (part(vectors).losses["multi_information"] for vectors in (numbers, copies))
    assert float(alike) > float(apart.detach()) + 0.5
    apart.backward()
    assert numbers.grad is not None and float(numbers.grad.abs().max()) > 0


def test_tripods_penalty_needs_tripods_grid() -> None:
    with pytest.raises(ValidationError, match="codebook tanh, not learned"):
        build(multi_information=0.1)


@pytest.mark.parametrize("spread", [False, True])
def test_a_single_code_has_no_vector(spread: bool) -> None:
    """Priors that read code vectors are told at once, not by an index out of range in the first step."""
    with pytest.raises(CynosureError, match="embedding: separate"):
        LatentQuantizer(LatentQuantizer.Config(sizes=(4, 4, 4, 4), spread=spread)).code_vectors()
