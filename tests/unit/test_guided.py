"""GuidedModel: where codes come from, what each stage trains, and what it says when a part is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_run import make_model, open_session

from cynosure.build import Session
from cynosure.core.guided import CodeSource, GuidedModel, Stage
from cynosure.core.records import Batch, SampleSettings
from cynosure.data.loading import evaluation_batches
from cynosure.errors import CynosureError

SETTINGS = SampleSettings()
STAGES: tuple[Stage, ...] = ("codes", "prior", "refit")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(tmp_path_factory.mktemp("guided"))


@pytest.fixture
def model(session: Session) -> GuidedModel:
    return make_model(session)


@pytest.fixture(scope="module")
def batch(session: Session) -> Batch:
    task = make_model(session).tasks["depth"]
    return next(evaluation_batches(task, session.rows("depth", "test"), 4))


def without(model: GuidedModel, *parts: str) -> GuidedModel:
    for name in parts:
        setattr(model, name, None)
    return model


def drawn(model: GuidedModel, batch: Batch, source: CodeSource, seeds: torch.Tensor) -> torch.Tensor:
    codes = model.codes(batch, source, SETTINGS, seeds)
    assert codes is not None
    return codes.ids


# --- where codes come from


def test_the_oracle_writes_codes_from_the_answer(model: GuidedModel, batch: Batch) -> None:
    ids = drawn(model, batch, "oracle", batch.keys)
    assert torch.equal(ids, model.encode(batch).ids) and ids.shape == (4, 4, 1)
    other = replace(batch, targets={k: v.flip(0) for k, v in batch.targets.items()})
    assert torch.equal(drawn(model, other, "oracle", batch.keys), ids.flip(0))


def test_an_oracle_whose_vectors_are_nan_does_not_write_codes(model: GuidedModel, batch: Batch) -> None:
    """A quantizer gives NaN a code like any other vector; codes of nothing must not be kept and learnt."""
    assert model.tokenizer is not None
    next(model.tokenizer.parameters()).data.fill_(torch.nan)
    with pytest.raises(CynosureError, match=r"vectors of task depth are NaN: its data hold NaN"):
        model.eval().encode(batch)


@pytest.mark.parametrize("source", ["prior", "random"])
def test_drawn_codes_depend_on_the_row_s_seed_and_not_on_the_answer(
    model: GuidedModel, batch: Batch, source: CodeSource
) -> None:
    seeds = torch.arange(4)
    ids = drawn(model, batch, source, seeds)
    assert 0 <= ids.min() and ids.max() < 8
    assert torch.equal(drawn(model, replace(batch, targets={}), source, seeds), ids)
    changed = drawn(model, batch, source, torch.tensor([0, 1, 77, 3]))
    assert torch.equal(changed[[0, 1, 3]], ids[[0, 1, 3]]) and not torch.equal(changed[2], ids[2])


def test_random_codes_use_the_whole_vocabulary_evenly(model: GuidedModel, batch: Batch) -> None:
    ids = drawn(model, batch, "random", torch.arange(4000))
    shares = torch.bincount(ids.flatten(), minlength=8) / ids.numel()
    assert bool(((shares - 1 / 8).abs() < 0.01).all())


def test_no_codes_are_all_codes_dropped(model: GuidedModel, batch: Batch) -> None:
    assert model.codes(batch, "none", SETTINGS, batch.keys) is None
    dropped = model.base(batch.inputs, torch.zeros(4, 4, 4), batch.task)
    assert torch.equal(model.outputs(batch, None), dropped)
    assert not torch.equal(model.outputs(batch, model.encode(batch)), dropped)


def test_predictions_carry_the_codes_that_led_to_them(model: GuidedModel, batch: Batch) -> None:
    ids = drawn(model, batch, "prior", batch.keys)
    predictions = model.predict(batch, SETTINGS, batch.keys)
    assert all((p.codes == row.numpy()).all() for p, row in zip(predictions, ids, strict=True) if p.codes is not None)
    assert all(p.codes is not None for p in predictions)
    assert all(p.codes is None for p in model.predict(batch, SETTINGS, batch.keys, "none"))


def test_a_model_without_tokenizer_predicts_without_codes(model: GuidedModel, batch: Batch) -> None:
    sources: tuple[CodeSource, ...] = ("oracle", "prior", "random", "none")
    for source in sources:
        assert without(model, "tokenizer", "prior").codes(batch, source, SETTINGS, batch.keys) is None


# --- what is said when a part is missing


def test_the_oracle_needs_the_answer(model: GuidedModel, batch: Batch) -> None:
    with pytest.raises(CynosureError, match="codes: oracle needs the answer"):
        model.codes(replace(batch, targets={}), "oracle", SETTINGS, batch.keys)


def test_the_prior_must_be_there(model: GuidedModel, batch: Batch) -> None:
    with pytest.raises(CynosureError, match=r"no trained prior: --resume a run.*init\.from"):
        without(model, "prior").codes(batch, "prior", SETTINGS, batch.keys)
    with pytest.raises(CynosureError, match=r"stage prior needs model.prior"):
        model(batch, "prior")


def test_codes_need_a_tokenizer(model: GuidedModel, batch: Batch) -> None:
    with pytest.raises(CynosureError, match="no tokenizer"):
        without(model, "tokenizer").encode(batch)


# --- what stages train


@pytest.mark.parametrize(
    ("stage", "learns"),
    [("codes", {"base", "tokenizer"}), ("prior", {"prior"}), ("refit", {"base"}), (None, set())],
)
def test_a_stage_trains_its_parts_only(model: GuidedModel, stage: Stage | None, learns: set[str]) -> None:
    model.set_stage("codes")
    model.set_stage(stage)
    for name in ("base", "tokenizer", "prior"):
        module = getattr(model, name)
        assert all(p.requires_grad == (name in learns) for p in module.parameters()), name
        assert all(m.training == (name in learns) for m in module.modules()), name


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_reaches_all_that_the_stage_trains(model: GuidedModel, batch: Batch, stage: Stage) -> None:
    model.set_stage(stage)
    model(batch, stage).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None and "colorization" not in n]
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not missing and not frozen


@pytest.mark.parametrize("stage", ["prior", "refit"])
def test_later_stages_leave_the_frozen_buffers_alone(model: GuidedModel, batch: Batch, stage: Stage) -> None:
    model.set_stage(stage)
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(batch, stage)
    assert before and all(torch.equal(b, before[n]) for n, b in model.named_buffers())


@pytest.mark.parametrize("stage", ["prior", "refit"])
def test_codes_of_the_batch_replace_the_oracle_s(model: GuidedModel, batch: Batch, stage: Stage) -> None:
    model.set_stage(stage)
    model.code_dropout = 0.0
    own = model.encode(batch).ids
    loss = model(batch, stage).loss
    assert torch.equal(model(replace(batch, codes=own), stage).loss, loss)
    assert not torch.equal(model(replace(batch, codes=(own + 1) % 8), stage).loss, loss)


def test_a_model_without_codes_trains(model: GuidedModel, batch: Batch) -> None:
    bare = without(model, "tokenizer", "prior")
    bare.set_stage("codes")
    assert bool(bare(batch, "codes").loss.isfinite())


# --- code dropout and loss weights


def losses(model: GuidedModel, batch: Batch, stage: Stage, times: int = 8) -> set[float]:
    found = set()
    for seed in range(times):
        torch.manual_seed(seed)
        found.add(float(model(batch, stage).loss.detach()))
    return found


def test_codes_are_dropped_while_the_base_trains_on_the_oracle(model: GuidedModel, batch: Batch) -> None:
    model.code_dropout = 1.0
    model.set_stage("refit")  # the base trains, the codebook rests: what varies now is the dropout alone
    assert len(losses(model, batch, "codes")) > 4
    assert len(losses(model, batch, "refit")) == 1, "the prior's codes are all kept"
    model.set_stage(None)
    assert len(losses(model, batch, "codes")) == 1, "nothing is dropped outside of training"
    model.set_stage("refit")
    model.code_dropout = 0.0
    assert len(losses(model, batch, "codes")) == 1


@pytest.mark.parametrize(
    ("stage", "weights", "term"), [("codes", "loss_weights", "depth"), ("prior", "prior_weights", "nll")]
)
def test_a_weight_scales_the_task_s_own_terms(
    stage: Stage, weights: str, term: str, model: GuidedModel, batch: Batch
) -> None:
    """Of the oracle's losses none; of the prior's all."""
    model.set_stage(None)
    plain = model(batch, stage)
    setattr(model, weights, {"depth": 3.0})
    weighted = model(batch, stage)
    assert plain.logs[term] == weighted.logs[term], "logs show the terms as they are"
    assert float(weighted.loss - plain.loss) == pytest.approx(2 * float(plain.logs[term]), rel=1e-5)


def test_logs_are_detached_and_add_up(model: GuidedModel, batch: Batch) -> None:
    model.set_stage("codes")
    model.code_dropout = 0.0
    output = model(batch, "codes")
    assert not any(v.requires_grad for v in output.logs.values())
    terms = sum(float(v) for k, v in output.logs.items() if k != "codes_used")
    assert float(output.loss.detach()) == pytest.approx(terms, rel=1e-5)
