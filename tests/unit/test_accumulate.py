"""Several micro-batches a step: the gradients, the codebook and the data of one large batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_run import make_model, open_session

from cynosure.build import Session
from cynosure.core.guided import GuidedModel
from cynosure.core.records import Batch
from cynosure.data.loading import MicroBatches, TaskData
from cynosure.data.mixing import Mixture
from cynosure.errors import ConfigError, TrainingError
from cynosure.train.stages import micro_batches_per_step


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "cache"))
    return open_session(tmp_path, "model.code_dropout=0", "model.tokenizer.quantizer.min_count=1")


def task_data(session: Session, model: GuidedModel, batch_size: int) -> TaskData:
    return TaskData(model.tasks["colorization"], session.rows("colorization", "train"), batch_size, seed=0)


def part(batch: Batch, start: int, stop: int) -> Batch:
    """Rows [start, stop) of a batch."""
    cut = {name: value[start:stop] for name, value in batch.inputs.items()}
    targets = {name: value[start:stop] for name, value in batch.targets.items()}
    return replace(batch, inputs=cut, targets=targets, keys=batch.keys[start:stop], valid=batch.valid[start:stop])


def test_micro_batches_give_the_gradient_and_the_codebook_of_the_large_batch(session: Session) -> None:
    """Over several steps, so that a codebook that had decayed once a micro-batch would be told by its codes."""
    large, small = make_model(session), make_model(session)
    data = task_data(session, large, 8)
    for model in (large, small):
        model.set_stage("codes")
    for step in range(4):
        batch = data.batch(step, 0, 1)
        large(batch, "codes").loss.backward()
        for i in range(4):
            (small(part(batch, 2 * i, 2 * i + 2), "codes").loss / 4).backward()
        for (name, a), b in zip(large.named_parameters(), small.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), name
            assert a.grad is None or torch.allclose(a.grad, b.grad, atol=1e-6), f"the gradient of {name} differs"
        for model in (large, small):
            model.end_step()
            model.zero_grad()
        for (name, a), b in zip(large.named_buffers(), small.buffers(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=f"{name} differs")
    assert not torch.equal(large.tokenizer.quantizer.counts, make_model(session).tokenizer.quantizer.counts)


def test_a_step_sees_the_same_examples_however_many_processes_share_it(session: Session) -> None:
    data = task_data(session, make_model(session), 2)
    mixture = Mixture({"colorization": 1.0})

    def keys(step: int, world: int) -> list[int]:
        count = 8 // (2 * world)
        start, stop = step * count, (step + 1) * count
        seen = [MicroBatches({"colorization": data}, mixture, start, stop, rank, world) for rank in range(world)]
        return sorted(int(key) for batches in seen for i in range(len(batches)) for key in batches[i].keys)

    for step in range(3):
        assert keys(step, 1) == keys(step, 2) == keys(step, 4)


@pytest.mark.parametrize(("processes", "wanted"), [(1, 12), (2, 6), (3, 4)])
def test_a_global_batch_is_shared_by_processes_and_micro_batches(tmp_path: Path, processes: int, wanted: int) -> None:
    recipe = open_session(tmp_path, "train.codes.global_batch=96").recipe
    assert micro_batches_per_step(recipe, "codes", processes) == wanted
    assert micro_batches_per_step(recipe, "prior", processes) == 1, "the other stage keeps its accumulate"


@pytest.mark.parametrize(
    ("sets", "processes", "said"),
    [
        (
            ["train.codes.global_batch=100"],
            1,
            "no multiple of batch_size 8 times 1 processes: set batch_size to 5 or 10",
        ),
        (["train.codes.global_batch=4"], 1, "set batch_size to 4"),
        (["train.codes.global_batch=96"], 5, "cannot be shared by 5 processes: make it a multiple of 5"),
        (
            ["train.codes.global_batch=96", "tasks.depth.batch_size=4"],
            1,
            r"tasks of one batch_size \(depth 4, colorization 8\)",
        ),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_with_advice(
    tmp_path: Path, sets: list[str], processes: int, said: str
) -> None:
    recipe = open_session(tmp_path, *sets).recipe
    with pytest.raises(TrainingError, match=said):
        micro_batches_per_step(recipe, "codes", processes)


def test_a_task_that_is_not_trained_may_have_any_batch_size(tmp_path: Path) -> None:
    recipe = open_session(tmp_path, "train.codes.global_batch=32", "tasks.depth={batch_size: 5, weight: 0}").recipe
    assert micro_batches_per_step(recipe, "codes", 1) == 4


def test_global_batch_and_accumulate_are_not_both_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="decides how much is accumulated"):
        open_session(tmp_path, "train.codes.global_batch=32", "train.codes.accumulate=2")
