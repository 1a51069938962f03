"""The `vq` quantizer and code dropout against arrays computed by the published UViM code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cynosure.core.dropout import kept_codes
from cynosure_plugins.quantizers import learning, vq
from cynosure_plugins.quantizers.codebook import nearest, split

Arrays = dict[str, np.ndarray]
Start = Callable[..., vq.VectorQuantizer]


@pytest.fixture
def state(golden: Path, uvim_task: str) -> Arrays:
    return dict(np.load(golden / "uvim" / f"{uvim_task}_vq_state.npz"))


@pytest.fixture
def start(golden: Path, uvim_task: str, state: Arrays) -> Start:
    """Builds the quantizer of the task in a state of its arrays."""
    decay = json.loads((golden / "uvim" / "config.json").read_text())[uvim_task]["dict_momentum"]

    def build(where: str, **options: Any) -> vq.VectorQuantizer:
        counts, sums = (torch.from_numpy(state[f"{where}/{name}"]) for name in ("counts", "dictionary"))
        config = vq.VectorQuantizer.Config(vocab_size=len(sums), dim=sums.shape[1], decay=decay, **options)
        part = vq.VectorQuantizer(config)
        part.counts.copy_(counts)
        part.sums.copy_(sums)
        return part

    return build


class Splits:
    """Feeds the recorded noise into the splits and records which entries they touch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pairs: list[tuple[int, int]] = []
        self.noise: Iterator[np.ndarray] = iter(())
        monkeypatch.setattr(learning, "split", self)

    def __call__(self, counts: np.ndarray, sums: np.ndarray, min_count: float, noise: Any, halve: bool) -> None:
        self.pairs += split(counts, sums, min_count, self.noise.__next__, halve)

    def expect(self, arrays: Arrays, where: str) -> None:
        self.pairs.clear()
        self.noise = iter(arrays[f"{where}/split_noise"])
        self.wanted = list(zip(arrays[f"{where}/split_i_max"], arrays[f"{where}/split_i_min"], strict=True))

    def check(self) -> None:
        assert self.pairs == self.wanted, "entries split and replaced, in order"


def assert_state(part: vq.VectorQuantizer, state: Arrays, where: str, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(part.counts.numpy(), state[f"{where}/counts"], rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(part.sums.numpy(), state[f"{where}/dictionary"], rtol=rtol, atol=3e-5)


def test_nearest_codeword_takes_the_first_of_duplicates(ops: Arrays) -> None:
    x, e, q, ids = (torch.from_numpy(ops[f"quantize/{name}"]) for name in ("x", "e", "q", "idx"))
    found = nearest(x.flatten(0, 1), e).view(ids.shape)
    assert torch.equal(found, ids.long())
    torch.testing.assert_close(e[found], q, atol=2e-5, rtol=1e-5)


def test_codes_codewords_and_straight_through_values(golden: Path, uvim_task: str, state: Arrays, start: Start) -> None:
    stage1 = np.load(golden / "uvim" / f"{uvim_task}_stage1_io.npz")
    part = start("no_split/before", commitment=1.0).eval()
    out = part(torch.from_numpy(stage1["bottleneck"]))
    assert np.array_equal(out.ids[..., 0].numpy(), stage1["code"])
    np.testing.assert_allclose(part.codewords.numpy(), stage1["codewords"], rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(out.vectors.numpy(), stage1["bottleneck_q"], rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(out.losses["commitment"].numpy(), stage1["loss_commitment"], atol=1e-5)
    assert np.array_equal(out.usage.numpy(), state["batch_counts"])


def test_discounted_totals_without_splits(state: Arrays, start: Start) -> None:
    part = start("split/before", min_count=0.0)
    part(torch.from_numpy(state["bottleneck"]))
    part.learn()
    assert_state(part, state, "split/ema")


@pytest.mark.parametrize("scenario", ["no_split", "split"])
def test_one_update(scenario: str, state: Arrays, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = Splits(monkeypatch)
    splits.expect(state, scenario)
    part = start(f"{scenario}/before")
    out = part(torch.from_numpy(state["bottleneck"]))
    part.learn()
    assert np.array_equal(out.ids[..., 0].numpy(), state["code"])
    splits.check()
    assert_state(part, state, f"{scenario}/after")


def test_consecutive_updates(state: Arrays, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = Splits(monkeypatch)
    part = start("multi/before")
    steps = sorted({name.split("/")[1] for name in state if name.startswith("multi/step")})
    for step in (f"multi/{name}" for name in steps):
        splits.expect(state, step)
        out = part(torch.from_numpy(state[f"{step}/bottleneck"]))
        part.learn()
        assert np.array_equal(out.ids[..., 0].numpy(), state[f"{step}/code"]), f"codes of {step}"
        splits.check()
        assert_state(part, state, f"{step}/after")


def test_own_noise_is_as_small_as_the_original(state: Arrays, start: Start) -> None:
    """With our own random numbers only the replaced rows differ, by the size of the noise."""
    part = start("split/before")
    part(torch.from_numpy(state["bottleneck"]))
    part.learn()
    assert_state(part, state, "split/after", rtol=5e-3)


def test_code_dropout_keeps_the_recorded_number_of_codes(golden: Path, uvim_task: str) -> None:
    train = np.load(golden / "uvim" / f"{uvim_task}_stage1_train.npz")
    mask = train["dropout/keep_mask"]
    kept = kept_codes(torch.from_numpy(train["dropout/thr"]), mask.shape[1])
    assert np.array_equal(kept.numpy(), mask.sum(axis=1))
