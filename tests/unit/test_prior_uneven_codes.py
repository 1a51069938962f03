"""Priors on codes of segments that differ in depth: what is no code counts for nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from cynosure.core.records import Codes, CodeSpec, Segment, Shapes
from cynosure_plugins.priors.autoregressive import Autoregressive
from cynosure_plugins.priors.gpt import GPT
from cynosure_plugins.priors.rq_transformer import RQTransformer

SPEC = CodeSpec((Segment("scene", 2, 1, 3), Segment("image", 3, 2, 9, sizes=(9, 4))))
SIZE = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
SHAPES = Shapes((16, 16), {"a": 1}, SPEC, 4)


@pytest.mark.parametrize(
    ("prior", "options"),
    [(Autoregressive, {"label_smoothing": 0}), (GPT, {}), (RQTransformer, {"head_depth": 1, "embedding": "shared"})],
    ids=["autoregressive", "gpt", "rq_transformer"],
)
def test_the_loss_is_a_mean_over_codes_that_there_are(prior: Any, options: dict[str, Any]) -> None:
    """Were it one over all places, codes of an uneven tokenizer would seem likelier than they are."""
    torch.manual_seed(0)
    part = prior(prior.Config(**SIZE, **options), SHAPES, None).eval()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    limits = SPEC.limits()
    ids = (torch.rand(2, *limits.shape) * limits).long()
    real = limits.flatten() > 1
    logits, tokens = part.logits({}, ids.flatten(1), "a")[:, real], ids.flatten(1)[:, real]
    assert real.sum() == SPEC.real == 8
    torch.testing.assert_close(
        part.loss({}, Codes(ids, SPEC), "a")["nll"], F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    )
