"""Entropy losses on several ranks: the codes of all vectors are to be used, not those of each rank's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cynosure.testing.ranks import AVAILABLE, State, on_two_ranks
from cynosure_plugins.quantizers.entropy import bit_entropy, codebook_entropy

CODEWORDS = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
VECTORS = (
    torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).sort(dim=0).values
)  # each half has its own codes
LOSSES = {
    "codebook": lambda vectors: codebook_entropy(vectors, CODEWORDS, 0.5),
    "bits": lambda vectors: bit_entropy(vectors, 1.0, 2),
}


def step(loss: Callable[[torch.Tensor], torch.Tensor], vectors: torch.Tensor) -> State:
    """The loss, and the gradient of a weight that all ranks have."""
    weight = torch.ones(4, requires_grad=True)
    found = loss(weight * vectors)
    found.backward()
    assert weight.grad is not None
    return {"loss": found.detach(), "gradient": weight.grad}


@pytest.mark.skipif(not AVAILABLE, reason="processes cannot be forked here")
@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_learn_what_one_learns_from_all_vectors(name: str) -> None:
    loss = LOSSES[name]
    alone = step(loss, VECTORS)
    ranks = on_two_ranks(lambda rank: step(loss, VECTORS.chunk(2)[rank]))
    for key, wanted in alone.items():  # DDP takes the mean of gradients
        torch.testing.assert_close(torch.stack([rank[key] for rank in ranks]).mean(0), wanted)
    halves = torch.stack([step(loss, half)["loss"] for half in VECTORS.chunk(2)]).mean()
    assert (halves - alone["loss"]).abs() > 0.1, "the halves are too much alike to tell"


@pytest.mark.skipif(not AVAILABLE, reason="processes cannot be forked here")
def test_a_rank_that_evaluates_alone_waits_for_nobody() -> None:
    def work(rank: int) -> State:
        with torch.no_grad():
            return {"loss": LOSSES["bits"](VECTORS)} if rank == 0 else {}

    first, _ = on_two_ranks(work)
    torch.testing.assert_close(first["loss"], LOSSES["bits"](VECTORS))
