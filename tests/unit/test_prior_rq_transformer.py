"""The rq_transformer prior: how it reads the tokenizer, and what it learns from and draws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import make_model, open_session

from cynosure.core.decoding import draw
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes, SoftTargets
from cynosure.data.loading import evaluation_batches
from cynosure.errors import CynosureError
from cynosure.testing.samples import inputs, shapes, targets
from cynosure_plugins.encoders.text import TextEncoder
from cynosure_plugins.priors.rq_transformer import RQTransformer
from cynosure_plugins.quantizers.fsq import FiniteScalarQuantizer
from cynosure_plugins.quantizers.rq import ResidualQuantizer
from cynosure_plugins.quantizers.vq import VectorQuantizer
from cynosure_plugins.tokenizers.vit_oracle import ViTOracle

TINY = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
RQ = ResidualQuantizer.Config(vocab_size=16, dim=8, depth=3, shared=False)


def make_oracle(quantizer: Any) -> ViTOracle:
    torch.manual_seed(0)
    return ViTOracle(ViTOracle.Config(**TINY, patch=8, code_grid=(2, 2)), shapes(), quantizer).eval()


TEXTS = {"caption": ["a red sphere", "two", "a red sphere"]}


def make_prior(spec: CodeSpec, text_depth: int | None = None, **options: Any) -> RQTransformer:
    torch.manual_seed(0)
    config, known = RQTransformer.Config(**TINY, head_depth=1, **options), Shapes((32, 32), {"first": 3}, spec, 8)
    if text_depth is None:
        return RQTransformer(config, known, None)
    text = TextEncoder.Config(dim=24, depth=text_depth, heads=2, mlp_dim=32, length=16)
    return RQTransformer(config, known, TextEncoder(text, known))


def test_the_tokenizer_is_read_and_no_part_of_the_prior() -> None:
    oracle = make_oracle(ResidualQuantizer(RQ))
    prior = make_prior(oracle.spec)
    names = set(prior.state_dict())
    prior.attach(oracle)
    assert set(prior.state_dict()) == names, "the tokenizer's weights would be saved and trained twice"
    with torch.no_grad():
        prior.classifiers[0].weight.normal_()  # type: ignore[operator,union-attr]
    tokens = torch.zeros(1, 12, dtype=torch.long)
    before = prior.logits({}, tokens, "first")
    oracle.quantizer.codebooks[1].begin(torch.randn(16, 8), torch.ones(16))  # type: ignore[index,operator,union-attr]
    changed = (prior.logits({}, tokens, "first") - before).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False, False] + [True] * 10, "a code must be seen by those after it, and by them only"


def test_without_tokenizer_it_says_what_to_do() -> None:
    prior = make_prior(CodeSpec((Segment("codes", 4, 3, 16),)))
    with pytest.raises(CynosureError, match="attach"):
        prior.logits({}, torch.zeros(1, 12, dtype=torch.long), "first")


def test_codewords_sum_to_the_vectors_of_codes() -> None:
    rq = ResidualQuantizer(RQ)
    ids = torch.randint(16, (2, 5, 3))
    sums = torch.stack([rq.code_vectors()[depth][ids[..., depth]] for depth in range(3)]).sum(0)
    torch.testing.assert_close(sums, rq.lookup(ids))
    vq = VectorQuantizer(VectorQuantizer.Config(vocab_size=16, dim=8))
    torch.testing.assert_close(vq.code_vectors()[0][ids[..., 0]], vq.lookup(ids[..., :1]))


def test_codes_without_codewords_are_refused() -> None:
    oracle = make_oracle(FiniteScalarQuantizer(FiniteScalarQuantizer.Config(levels=(4, 4, 4, 4), groups=2)))
    with pytest.raises(CynosureError, match="embedding: separate"):
        make_prior(oracle.spec).attach(oracle)
    make_prior(oracle.spec, embedding="separate").attach(oracle)


def test_soft_codes_come_with_how_likely_they_were() -> None:
    oracle = make_oracle(ResidualQuantizer(RQ))
    soft = oracle.soft_codes(targets("first"), inputs(), "first", SoftTargets(0.5, stochastic=False))
    assert torch.equal(soft.ids, oracle.encode(targets("first"), inputs(), "first").codes.ids)
    assert soft.probabilities is not None
    assert torch.equal(soft.probabilities.argmax(-1), soft.ids), "the nearest codeword is the likeliest"
    with pytest.raises(CynosureError, match="soft_temperature"):
        make_oracle(VectorQuantizer(VectorQuantizer.Config(vocab_size=16, dim=8))).soft_codes(
            targets("first"), inputs(), "first", SoftTargets(0.5, stochastic=True)
        )


def test_certain_probabilities_cost_what_codes_cost() -> None:
    oracle = make_oracle(ResidualQuantizer(RQ))
    prior = make_prior(oracle.spec, embedding="shared", soft_temperature=0.5)
    assert prior.soft_targets == SoftTargets(0.5, stochastic=True)
    with torch.no_grad():
        prior.classifiers[0].weight.normal_()  # type: ignore[operator,union-attr]
    ids = torch.randint(16, (2, 4, 3))
    certain = torch.nn.functional.one_hot(ids, 16).float()
    hard, soft = (prior.loss({}, Codes(ids, oracle.spec, p), "first")["nll"] for p in (None, certain))
    torch.testing.assert_close(hard, soft)


def test_filters_may_differ_by_depth() -> None:
    settings = SampleSettings(top_k=(1, 3), top_p=(1.0, 1.0))
    logits = torch.tensor([[0.0, 0.1, 0.2, 0.3]]).expand(200, -1)
    uniforms = torch.linspace(0, 0.999, 200)
    assert set(draw(logits, settings, uniforms, 0).tolist()) == {3}
    assert set(draw(logits, settings, uniforms, 1).tolist()) == {1, 2, 3}
    with pytest.raises(ValueError, match="top_k"):
        SampleSettings(top_k=(4, 0))


def test_a_model_teaches_the_prior_probabilities(tmp_path: Path) -> None:
    session = open_session(
        tmp_path,
        "model.tokenizer.quantizer={name: rq, vocab_size: 8, dim: 4, depth: 2}",
        "model.prior={name: rq_transformer, dim: 16, depth: 1, head_depth: 1, heads: 2, mlp_dim: 32, "
        "soft_temperature: 0.5, stochastic: false}",
    )
    model = make_model(session)
    batch = next(evaluation_batches(model.tasks["depth"], session.rows("depth", "test"), 4))
    evaluated = float(model(batch, "prior").loss)
    model.set_stage("prior")
    step = model(batch, "prior")
    taught = step.loss
    taught.backward()
    assert 0 < step.logs["entropy"] < taught.detach(), "the log shows what the loss cannot fall below"
    assert abs(float(taught.detach()) - evaluated) > 1e-4, "training must see probabilities, evaluation the codes"
    assert all(parameter.grad is None for parameter in model.tokenizer.parameters())  # type: ignore[union-attr]
    codes = model.codes(batch, "prior", SampleSettings(), batch.keys)
    assert codes is not None and tuple(codes.ids.shape) == (4, 4, 2)


@pytest.mark.parametrize("task_tokens", [True, False])
def test_text_is_learnt_beside_the_codes(task_tokens: bool) -> None:
    """Each token from those before it, never from itself; codes then follow the text."""
    spec = CodeSpec((Segment("codes", 4, 2, 5),))
    prior = make_prior(spec, text_depth=0, embedding="shared", text_loss=0.5, task_tokens=task_tokens)
    ids = torch.tensor([[[1, 2]] * 4, [[3, 0]] * 4, [[1, 2]] * 4])
    first = prior.loss(TEXTS, Codes(ids, spec), "first")
    assert float(first["text"].detach()) == pytest.approx(0.5 * math.log(257), rel=1e-4), "guessing one of 257 tokens"
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        losses = prior.loss(TEXTS, Codes(ids, spec), "first")
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert losses["text"] < 0.1 * first["text"] and losses["nll"] < 0.1 * first["nll"]
    assert torch.equal(prior.sample(TEXTS, "first", SampleSettings(temperature=0.0), torch.arange(3)).ids, ids)
    read, _ = prior._read(TEXTS, ids, "first")
    other, _ = prior._read({"caption": ["a red cube", "two", "a red sphere"]}, ids, "first")
    changed = (prior.text_logits(read, 16) - prior.text_logits(other, 16)).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False] * 6 + [True] * 9, "logit i may read bytes 0 to i; byte 6 is the first to differ"


def test_text_that_sees_itself_is_not_to_be_predicted() -> None:
    spec = CodeSpec((Segment("codes", 4, 2, 5),))
    for depth in (None, 1):
        with pytest.raises(ValueError, match="text or bpe, with depth 0"):
            make_prior(spec, text_depth=depth, embedding="shared", text_loss=0.1)
