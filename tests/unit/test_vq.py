"""The vq quantizer: what a training, a resumed run and a prior rely on."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from cynosure.core.records import Quantized
from cynosure.errors import CheckpointError, CynosureError, TrainingError
from cynosure_plugins.quantizers.codebook import nearest, split
from cynosure_plugins.quantizers.vq import VectorQuantizer

CENTRES = F.normalize(torch.tensor([[3.0, 0, 0, 0], [0, 3.0, 1.0, 0], [-1.0, 0, 0, 3.0]]), dim=1)
UPDATES = ("totals", "ema", "gradient")


def vq(**options: Any) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(VectorQuantizer.Config(**{"vocab_size": 8, "dim": 4, **options}))


def clusters(step: int, batch: int = 4, length: int = 8, spread: float = 0.05) -> torch.Tensor:
    """Vectors [B, N, 4] around three centres, different every step."""
    rng = torch.Generator().manual_seed(step)
    which = torch.randint(3, (batch, length), generator=rng)
    return CENTRES[which] + spread * torch.randn(batch, length, 4, generator=rng)


def step(part: VectorQuantizer, vectors: torch.Tensor) -> Quantized:
    """What the quantizer makes of a batch, which it then learns from."""
    out = part(vectors)
    part.learn()
    return out


def state(part: VectorQuantizer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in part.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), f"{name} differs"


@pytest.mark.parametrize("update", UPDATES)
def test_codes_give_back_the_vectors(update: str) -> None:
    part = vq(update=update)
    for number in range(3):
        step(part, clusters(number))
    out = part.eval()(clusters(9))
    assert out.ids.shape == (4, 8, 1) and out.ids.dtype == torch.int64
    assert torch.equal(part.lookup(out.ids), out.vectors), "what the base sees in training is what ids stand for"
    assert torch.equal(part(out.vectors).ids, out.ids), "a codeword is nearest to itself"
    assert torch.equal(out.usage, torch.bincount(out.ids.flatten(), minlength=8))


def test_the_search_in_blocks_equals_the_full_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cynosure_plugins.quantizers.codebook.BLOCK_BYTES", 4 * 37 * 5)
    rng = torch.Generator().manual_seed(1)
    vectors, codewords = torch.randn(101, 6, generator=rng), torch.randn(37, 6, generator=rng)
    assert torch.equal(nearest(vectors, codewords), torch.cdist(vectors, codewords).argmin(dim=1))


def test_the_gradient_passes_straight_through() -> None:
    vectors = clusters(0).requires_grad_()
    weights = torch.randn(4, 8, 4)
    (vq()(vectors).vectors * weights).sum().backward()
    assert vectors.grad is not None and torch.equal(vectors.grad, weights)


@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_evaluation_changes_no_state(warmup_steps: int) -> None:
    part = vq(warmup_steps=warmup_steps)
    step(part, clusters(0))
    before = state(part)
    step(part.eval(), clusters(1))
    assert_same(before, state(part))


def train(part: VectorQuantizer, steps: int, spread: float = 0.05) -> torch.Tensor:
    """Trains on the clusters, by gradient where there are losses; the usage of the last batch."""
    optimizer = torch.optim.Adam([*part.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    for number in range(steps):
        out = part(clusters(number, batch=8, spread=spread))
        if out.losses:
            optimizer.zero_grad()
            torch.stack(list(out.losses.values())).sum().backward()
            optimizer.step()
        part.learn()
    return out.usage


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("normalize", [True, False])
def test_codewords_find_the_cluster_centres(update: str, normalize: bool) -> None:
    """Every way to learn must put a codeword on each of three well separated clusters."""
    part = vq(update=update, normalize=normalize, decay=0.9)
    train(part, 150)
    distance = torch.cdist(CENTRES, part.codewords.detach()).min(dim=1).values
    assert distance.max() < 0.1, f"centres without a codeword: {distance.tolist()}"


@pytest.mark.parametrize("update", UPDATES)
def test_dead_codes_come_back(update: str) -> None:
    """Codewords far from all data are replaced by copies of the busiest, and all end up in use."""
    part = vq(update=update, decay=0.8, normalize=False, split_noise=0.02)
    with torch.no_grad():
        (part.weight if update == "gradient" else part.sums)[1:] = 100.0
    usage = train(part, 150, spread=0.2)
    assert (usage > 0).all(), usage.tolist()


@pytest.mark.parametrize("update", ("totals", "gradient"))
def test_without_min_count_an_unused_codeword_stays_for_ever(update: str) -> None:
    part = vq(update=update, decay=0.1, min_count=0.0)
    before = part.codewords.detach().clone()
    vectors = CENTRES[:1].view(1, 1, 4)
    for _ in range(60):
        unused = step(part, vectors).usage == 0
    assert unused.sum() == 7
    torch.testing.assert_close(part.codewords.detach()[unused], before[unused])


def test_splitting_stops_when_it_cannot_help() -> None:
    counts, sums = torch.tensor([0.15, 0.01, 0.02]).numpy(), torch.ones(3, 2).numpy()
    assert split(counts, sums, 0.1, lambda: sums[0]) == [], "halving 0.15 would only make another entry too small"


@pytest.mark.parametrize("update", UPDATES)
def test_warm_up_passes_vectors_and_then_starts_with_all_codes_alive(update: str) -> None:
    part = vq(vocab_size=16, update=update, warmup_steps=6, decay=0.9, commitment=0.5, min_count=0.1)
    for number in range(6):
        vectors = clusters(number, spread=0.3)
        out = step(part, vectors)
        torch.testing.assert_close(out.vectors, F.normalize(vectors, dim=-1))
        assert out.ids.min() >= 0 and out.ids.max() < 16
        assert all(loss.item() == 0 for loss in out.losses.values()), "random codewords must not pull"
    assert (part.counts >= 0.1).all()
    assert abs(float(part.counts.sum()) - 32 / (1 - 0.9)) < 1e-2, "counts of a steady state with 32 vectors a step"
    vectors = clusters(99, batch=64, spread=0.3)
    out = part.eval()(vectors)
    assert (out.usage > 0).all(), "a codeword of the first dictionary is never chosen"
    error = (F.normalize(vectors, dim=-1) - out.vectors).square().sum(-1).mean()
    assert error < 0.15, "the first dictionary must fit the vectors it was made from"


def test_a_warm_up_too_short_to_fill_the_codebook_still_gives_a_finite_one() -> None:
    part = vq(vocab_size=64, warmup_steps=1)
    step(part, clusters(0, batch=1, length=5))
    assert part.codewords.isfinite().all()
    torch.testing.assert_close(part.codewords.norm(dim=1), torch.ones(64))
    step(part, clusters(1, batch=1, length=5))


def test_a_batch_smaller_than_the_codebook_learns() -> None:
    part = vq(vocab_size=64, decay=0.9)
    for number in range(40):
        step(part, clusters(number, batch=1, length=3))
    assert part.codewords.isfinite().all() and (part.counts >= 0.1).all()


@pytest.mark.parametrize("update", UPDATES)
def test_autocast_changes_neither_codes_nor_state(update: str) -> None:
    plain, mixed = vq(update=update), vq(update=update)
    for number in range(4):
        vectors = clusters(number).bfloat16()
        wanted = step(plain, vectors.float())
        with torch.autocast("cpu", torch.bfloat16):
            found = step(mixed, vectors)
        assert torch.equal(found.ids, wanted.ids) and torch.equal(found.vectors, wanted.vectors)
    assert_same(state(plain), state(mixed))


@pytest.mark.parametrize("stop", [3, 9])
def test_a_resumed_run_repeats_the_original(stop: int) -> None:
    """State dict alone, in the middle of the warm-up as well as between splits, makes a run go on bit for bit."""
    options: dict[str, Any] = {"warmup_steps": 6, "decay": 0.5, "min_count": 0.3, "vocab_size": 12}
    part = vq(**options)
    for number in range(stop):
        step(part, clusters(number))
    saved = copy.deepcopy(part.state_dict())
    for number in range(stop, 20):
        step(part, clusters(number))
    again = VectorQuantizer(VectorQuantizer.Config(dim=4, **options))
    again.load_state_dict(saved)
    for number in range(stop, 20):
        step(again, clusters(number))
    assert_same(state(part), state(again))


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("options", [{}, {"warmup_steps": 4}])
def test_micro_batches_of_a_step_teach_what_one_batch_teaches(update: str, options: dict[str, Any]) -> None:
    """Bit for bit, through warm-up, k-means and splits; all micro-batches are decided with the same codewords."""
    options = {"vocab_size": 12, "decay": 0.5, "min_count": 0.3, "update": update, **options}
    whole, parts = vq(**options), vq(**options)
    for number in range(12):
        batch = clusters(number, batch=6)
        wanted = step(whole, batch)
        found = [parts(part) for part in batch.chunk(3)]
        parts.learn()
        assert torch.equal(torch.cat([each.ids for each in found]), wanted.ids)
    assert_same(state(whole), state(parts))


def test_forward_alone_learns_nothing() -> None:
    part = vq(warmup_steps=2)
    before = state(part)
    part(clusters(0))
    assert_same(before, state(part))
    step(part.eval(), clusters(1))
    assert int(part.step) == 1, "what training saw is learnt, what evaluation saw is not"


@pytest.mark.parametrize("warmup_steps", [0, 5])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite_stop_training_and_leave_the_state(warmup_steps: int, bad: float) -> None:
    part = vq(warmup_steps=warmup_steps)
    step(part, clusters(0))
    before = state(part)
    vectors = clusters(1)
    vectors[2, 3, 1] = bad
    with pytest.raises(TrainingError, match="not finite"):
        step(part, vectors)
    assert_same(before, state(part))


def test_a_codebook_of_another_size_is_refused_in_one_sentence() -> None:
    with pytest.raises(CheckpointError, match="8 codewords of width 4, this model 16 of width 4"):
        vq(vocab_size=16).load_state_dict(vq().state_dict())
    with pytest.raises(CynosureError, match="width 4, not 5"):
        vq()(torch.zeros(1, 2, 5))


WORKER = """
import sys, torch, torch.distributed as dist
from cynosure_plugins.quantizers.vq import VectorQuantizer
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
batches, options = torch.load(f"{folder}/input.pt")
torch.manual_seed(0)
part = VectorQuantizer(VectorQuantizer.Config(**options))
for batch in batches:
    part(batch.chunk(2)[rank])
    part.learn()
torch.save(part.state_dict(), f"{folder}/state{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_learn_what_one_learns_from_the_joint_batch(tmp_path: Path) -> None:
    """Through warm-up, k-means and splits: replicas stay bit-equal, and equal one process up to summation order."""
    options: dict[str, Any] = {"vocab_size": 12, "dim": 4, "warmup_steps": 3, "decay": 0.5, "min_count": 0.3}
    batches = [clusters(number) for number in range(10)]
    torch.save((batches, options), tmp_path / "input.pt")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    workers = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    one, two = (torch.load(tmp_path / f"state{rank}.pt") for rank in range(2))
    assert_same(one, two)
    alone = vq(**options)
    for batch in batches:
        step(alone, batch)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(one[name], value, msg=f"{name} of two processes differs from one process")
