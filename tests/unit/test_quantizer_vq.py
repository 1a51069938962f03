"""Options of the vq quantizer: restarts, gradients, narrow codes, SimVQ, entropy; and what the search costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from cynosure.errors import CheckpointError, TrainingError
from cynosure_plugins.quantizers import entropy
from cynosure_plugins.quantizers.codebook import lottery, nearest
from cynosure_plugins.quantizers.entropy import codebook_entropy
from cynosure_plugins.quantizers.gradients import rotation
from cynosure_plugins.quantizers.vq import VectorQuantizer

MB = 1 << 20


def vq(**options: Any) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(VectorQuantizer.Config(**{"vocab_size": 16, "dim": 4, "normalize": False, **options}))


def vectors(seed: int, batch: int = 4, length: int = 16, dim: int = 4) -> torch.Tensor:
    return torch.randn(batch, length, dim, generator=torch.Generator().manual_seed(seed))


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that tensors made by `work` hold at once."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(sizes.cumsum(0).max())


@pytest.mark.parametrize("size", [1, 63, 64, 128, 640])
def test_the_search_finds_the_first_of_the_nearest(size: int) -> None:
    """Whether or not the codebook divides into the runs that are compared first."""
    words = vectors(1, 1, size, 6)[0]
    words = torch.cat([words, words[: size // 2]])  # ties
    questions = vectors(2, 1, 101, 6)[0]
    first = torch.cdist(questions.double(), words[:size].double()).argmin(dim=1)
    assert torch.equal(nearest(questions, words), first)


def test_the_search_never_holds_all_distances() -> None:
    part = vq(vocab_size=16384, dim=256).eval()
    inputs = torch.randn(16, 256, 256)
    with torch.no_grad():
        peak = peak_bytes(lambda: part(inputs))
    assert peak < 64 * MB, f"4096 vectors of width 256 and 16384 codewords take {peak / MB:.0f} MB"


@pytest.mark.parametrize("update", ["totals", "ema", "gradient"])
def test_codewords_begin_as_wide_as_the_recipe_says(update: str) -> None:
    """UViM's have variance 1 / K; VQGAN's lie within 1 / K of 0, and with `min_count: 0` stay there unless chosen."""
    options = {"vocab_size": 1024, "dim": 64, "update": update}
    usual, narrow = vq(**options).codewords, vq(**options, beginning="uniform").codewords
    assert float(usual.detach().std()) == pytest.approx(1024**-0.5, rel=0.02)
    assert 0.99 / 1024 < float(narrow.detach().abs().max()) <= 1.0001 / 1024


@pytest.mark.parametrize("update", ["totals", "ema", "gradient"])
def test_unused_codewords_restart_as_vectors_of_the_step(update: str) -> None:
    part = vq(update=update, replace="restart", min_count=0.5, decay=0.9).train()
    part.begin(torch.cat([torch.zeros(1, 4), torch.full((15, 4), 100.0)]), torch.full((16,), 0.5))
    inputs = vectors(0)
    part(inputs)
    part.learn()
    distances = torch.cdist(part.codewords.detach()[1:], inputs.flatten(0, 1)).min(dim=1).values
    assert distances.max() < 1e-3, "a codeword that nobody used must become one of the vectors"
    assert len(part.codewords.detach().unique(dim=0)) == 16, "and every one another vector"


def test_with_restarts_all_codes_come_into_use() -> None:
    part = vq(vocab_size=32, replace="restart").train()
    for seed in range(10):
        usage = part(vectors(seed, batch=32)).usage
        part.learn()
    assert (usage > 0).all(), f"{int((usage == 0).sum())} of 32 codes are unused"


def test_a_step_with_fewer_vectors_than_codewords_restarts_them_with_noise() -> None:
    part = vq(vocab_size=64, replace="restart").train()
    part(vectors(0, batch=1, length=3))
    part.learn()
    assert part.codewords.isfinite().all()
    assert len(part.codewords.unique(dim=0)) == 64


def test_the_choice_of_vectors_depends_on_them_and_the_seed_alone() -> None:
    rows = vectors(0, 1, 1000)[0]
    lots, order = lottery(rows, 1), torch.randperm(1000)
    assert torch.equal(lottery(rows[order], 1), lots[order])
    assert not torch.equal(lottery(rows, 2).argsort(), lots.argsort())
    half = rows[:, 0] > 0
    drawn = int(half[lots.argsort()[:500]].sum())
    assert abs(drawn - int(half.sum()) / 2) < 80, "and not on what the vectors look like"


def test_rotation_gives_the_codeword_and_turns_the_gradient() -> None:
    x, q = vectors(0, 1, 5).requires_grad_(), vectors(1, 1, 5)
    out = rotation(x, q)
    assert torch.equal(out, q)
    wanted = torch.randn(1, 5, 4)
    out.backward(wanted)
    assert x.grad is not None
    start, end = F.normalize(x.detach(), dim=-1), F.normalize(q, dim=-1)
    scale = q.norm(dim=-1) / x.detach().norm(dim=-1)
    torch.testing.assert_close(x.grad.norm(dim=-1), scale * wanted.norm(dim=-1))
    found, before = (F.normalize(g, dim=-1) for g in (x.grad, wanted))
    torch.testing.assert_close((found * start).sum(-1), (before * end).sum(-1), msg="the angle to the codeword is kept")


def test_rotation_survives_vectors_without_a_direction() -> None:
    x = torch.zeros(1, 2, 4, requires_grad=True)
    rotation(x, torch.ones(1, 2, 4)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_simvq_moves_all_codewords_with_every_step() -> None:
    part = vq(update="simvq", commitment=0.25).train()
    before, frozen = part.codewords.detach().clone(), part.frozen.clone()
    optimizer = torch.optim.SGD(part.parameters(), lr=0.5)
    for seed in range(3):
        out = part(vectors(seed, batch=1, length=2))
        sum(out.losses.values(), torch.zeros(())).backward()
        optimizer.step()
        part.learn()
    assert torch.equal(part.frozen, frozen)
    assert ((part.codewords.detach() - before).abs().sum(dim=1) > 0).all()


def test_narrow_codes_on_the_sphere() -> None:
    """As in ViT-VQGAN and LlamaGen: distances, losses and codewords live in the narrow, normalised space."""
    part = vq(dim=8, code_dim=3, normalize=True, normalize_inputs=True, update="gradient", commitment=1.0).eval()
    inputs = vectors(0, dim=8)
    out = part(inputs)
    narrow = F.normalize(part.project_in(inputs), dim=-1)
    words = F.normalize(part.weight, dim=-1)
    assert words.shape == (16, 3) and out.vectors.shape == inputs.shape
    assert torch.equal(out.ids[..., 0], (narrow @ words.t()).argmax(dim=-1))
    torch.testing.assert_close(out.losses["commitment"], (narrow - words[out.ids[..., 0]]).square().mean())


def test_entropy_in_blocks_equals_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy, "BLOCK_BYTES", 4 * 16 * 5)
    x, words = vectors(0, 1, 33)[0].requires_grad_(), vectors(1, 1, 16)[0].requires_grad_()
    found = codebook_entropy(x, words, 0.5)
    p = F.softmax(-torch.cdist(x, words).square() / 0.5, dim=-1)
    mean = p.mean(dim=0)
    wanted = -(p * p.log()).sum(-1).mean() + (mean * (mean + 1e-5).log()).sum()
    torch.testing.assert_close(found, wanted)
    for a, b in zip(torch.autograd.grad(found, [x, words]), torch.autograd.grad(wanted, [x, words]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_entropy_never_holds_all_probabilities() -> None:
    x, words = torch.randn(2048, 8, requires_grad=True), torch.randn(16384, 8, requires_grad=True)
    peak = peak_bytes(lambda: codebook_entropy(x, words, 1.0).backward())
    assert peak < 64 * MB, f"2048 x 16384 probabilities, 128 MB, take {peak / MB:.0f} MB at once"


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="legacy_beta needs update: gradient"):
        vq(legacy_beta=True)
    with pytest.raises(ValidationError, match="warmup_steps"):
        vq(update="simvq", warmup_steps=3)


def test_renumbered_codes_are_those_in_use_in_their_order() -> None:
    """A prior then learns three codes of sixteen; the codebook learns as before."""
    plain, few = vq(), vq(used=(9, 2, 5))
    x = torch.cat([plain.codewords[torch.tensor([5, 9, 2])], plain.codewords[torch.arange(16)]])[None]
    out, whole = few(x), plain(x)
    assert few.vocab_size == 3 and out.ids.max() < 3 and len(out.usage) == 3
    assert out.ids.flatten()[:3].tolist() == [2, 0, 1]
    torch.testing.assert_close(few.lookup(out.ids)[0, :3], x[0, :3])
    torch.testing.assert_close(few.code_vectors()[0], plain.codewords[torch.tensor([9, 2, 5])])
    torch.testing.assert_close(out.vectors, whole.vectors)
    for part in (plain, few):
        part.learn()
    assert torch.equal(plain.sums, few.sums) and len(few.in_use()) == 3
    assert torch.equal(few.eval()(x).ids, out.ids), "what is not in use must become the same code every time"
    many = few(vectors(0, batch=2, length=500)).ids
    assert torch.equal(few(vectors(0, batch=2, length=500)[1:]).ids, many[1:]), "codes depend on other rows"
    assert (many.flatten().bincount(minlength=3) > 200).all(), "what is not in use must become any code alike"
    extra = vq(used=(9, 2, 5), unknown="extra")
    assert extra(x).ids.flatten()[3:].unique(return_counts=True)[1].tolist() == [1, 1, 1, 13]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"used": ()}, "at least one of the codes 0 to 15"),
        ({"used": (1, 1)}, "none twice"),
        ({"used": (3, 16)}, "codes 0 to 15"),
        ({"used": (3, 4), "unknown": 2}, "unknown is 2, and used codes become 0 to 1"),
        ({"used": (3, 4), "unknown": True}, "unknown"),
        ({"unknown": "extra"}, "give used, too"),
    ],
)
def test_codes_that_cannot_be_renumbered(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        vq(**options)


def test_a_codebook_of_another_size_is_refused() -> None:
    for update in ("gradient", "simvq"):
        with pytest.raises(CheckpointError, match="16 codewords of width 4, this model 8"):
            vq(update=update, vocab_size=8).load_state_dict(vq(update=update).state_dict())


def test_not_a_number_never_becomes_a_codeword() -> None:
    part = vq(replace="restart").train()
    before = {name: value.clone() for name, value in part.state_dict().items()}
    part(torch.full((1, 8, 4), torch.nan))
    with pytest.raises(TrainingError):
        part.learn()
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())
    part(vectors(0))
    part.learn()
    assert part.codewords.isfinite().all(), "what was refused must not come back in the next step"


WORKER = """
import sys, torch, torch.distributed as dist
from cynosure_plugins.quantizers.rq import ResidualQuantizer
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
part = ResidualQuantizer(ResidualQuantizer.Config(vocab_size=12, dim=4, depth=2, min_count=3.0, decay=0.5))
torch.manual_seed(rank)
for _ in range(6):
    part(torch.randn(1 + rank, 5, 4))
    part.learn()
torch.save(part.state_dict(), f"{folder}/state{rank}.pt")
dist.destroy_process_group()
"""


def test_processes_with_unequal_batches_restart_the_same_codewords(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    workers = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    one, two = (torch.load(tmp_path / f"state{rank}.pt") for rank in range(2))
    for name, value in one.items():
        assert torch.equal(value, two[name]), f"{name} differs between processes"
