"""The `rq` quantizer against arrays computed by the published RQ-VAE code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cynosure_plugins.quantizers import learning, rq
from cynosure_plugins.quantizers.rq import ResidualQuantizer

CASES = ["shared_norestart", "shared_restart", "separate_norestart", "separate_restart"]
DECAY = {"shared": 0.99, "separate": 0.9}
Arrays = dict[str, np.ndarray]


def same(found: torch.Tensor, wanted: Any, atol: float = 2e-5, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), atol=atol, rtol=rtol)


def vectors(array: np.ndarray) -> torch.Tensor:
    """An array [B, h, w, d] as vectors [B, h * w, d]."""
    return torch.from_numpy(array).flatten(1, 2)


def load(part: ResidualQuantizer, arrays: Arrays, prefix: str) -> None:
    """The published state: totals are its averages / (1 - decay), and the last row of a table is padding.

    The very first tables are no quotients of their averages (see `keep_averages`); the tables count.
    """
    for depth, book in enumerate(part.codebooks):
        table, counts = (arrays[f"{prefix}codebooks.{depth}.{name}"] for name in ("weight", "cluster_size_ema"))
        book.begin(torch.from_numpy(table[:-1]), torch.from_numpy(counts) / (1 - part.config.decay))


def keep_averages(monkeypatch: pytest.MonkeyPatch, part: ResidualQuantizer, arrays: Arrays, prefix: str) -> None:
    """The first update of each codebook goes on from the published averages of vectors, not from its codewords.

    The published code keeps tables apart from averages, and these arrays begin with tables that are averages by plain
    counts: the smoothed counts of every later table would make them up to 6e-5 different. Ours has no such state.
    """
    names = [f"{prefix}codebooks.{depth}.embed_ema" for depth in range(len(part.codebooks))]
    averages, learn = iter([torch.from_numpy(arrays[name]) for name in names]), learning.Codebook.learn

    def go_on(book: learning.Codebook) -> None:
        if (sums := next(averages, None)) is not None:
            book.sums.copy_(sums / (1 - part.config.decay))
        learn(book)

    monkeypatch.setattr(learning.Codebook, "learn", go_on)


@pytest.fixture
def ema(golden: Path) -> Arrays:
    return dict(np.load(golden / "rqvae" / "rq_bottleneck_ema.npz"))


@pytest.fixture
def io(golden: Path) -> Arrays:
    return dict(np.load(golden / "rqvae" / "rqvae_io.npz"))


@pytest.fixture
def trained(golden: Path, io: Arrays) -> ResidualQuantizer:
    settings = json.loads(str(io["config"]))["hparams"]
    config = ResidualQuantizer.Config(
        vocab_size=settings["n_embed"],
        dim=settings["embed_dim"],
        depth=settings["code_shape"][-1],
        shared=settings["shared_codebook"],
        decay=settings["decay"],
        commitment=settings["latent_loss_weight"],
    )
    part = ResidualQuantizer(config).eval()
    load(part, dict(np.load(golden / "rqvae" / "rqvae_weights.npz")), "quantizer.")
    return part


@pytest.mark.parametrize("case", CASES)
def test_training_steps(ema: Arrays, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps with averages, restarts and a search of the book that the depth before has changed."""
    kind, restart = case.split("_")
    codes = ema[f"{case}/codes0"]
    weight = ema[f"{case}/before/codebooks.0.weight"]
    config = ResidualQuantizer.Config(
        vocab_size=len(weight) - 1,
        dim=weight.shape[1],
        depth=codes.shape[-1],
        shared=kind == "shared",
        immediate=True,
        decay=DECAY[kind],
        min_count=1 / (1 - DECAY[kind]) if restart == "restart" else 0,
        commitment=1.0,
    )
    part = ResidualQuantizer(config).train()
    orders: Iterator[np.ndarray] = iter(ema.get(f"{case}/perms", ()))
    # The vector that stands first in the recorded permutation draws the lowest lot, and so on.
    monkeypatch.setattr(learning, "lottery", lambda rows, seed: torch.from_numpy(next(orders)).argsort())
    keep_averages(monkeypatch, part, ema, f"{case}/before/")
    for step, state in enumerate(("before", "after0")):
        load(part, ema, f"{case}/{state}/")
        out = part(vectors(ema[f"{case}/z{step}"]))
        assert np.array_equal(out.ids.numpy(), ema[f"{case}/codes{step}"].reshape(out.ids.shape))
        same(out.vectors, vectors(ema[f"{case}/quantized{step}"]))
        same(out.losses["commitment"], ema[f"{case}/loss{step}"], atol=0)
        part.learn()
        for depth, book in enumerate(part.codebooks):
            where = f"{case}/after{step}/codebooks.{depth}."
            same(book.counts * (1 - config.decay), ema[where + "cluster_size_ema"], atol=0, rtol=1e-4)
            same(book.sums * (1 - config.decay), ema[where + "embed_ema"], atol=0, rtol=1e-4)
            same(book.codewords, ema[where + "weight"][:-1], atol=0, rtol=1e-4)
    out = part.eval()(vectors(ema[f"{case}/eval_z"]))
    assert np.array_equal(out.ids.numpy(), ema[f"{case}/eval_codes"].reshape(out.ids.shape))
    same(out.vectors, vectors(ema[f"{case}/eval_quantized"]))
    same(out.losses["commitment"], ema[f"{case}/eval_loss"], atol=0)


def test_codes_losses_and_gradient(trained: ResidualQuantizer, io: Arrays) -> None:
    inputs = vectors(io["pre_quant"]).requires_grad_()
    out = trained(inputs)
    assert np.array_equal(out.ids.numpy(), io["codes"].reshape(out.ids.shape))
    same(out.vectors, vectors(io["quantized"]))
    same(out.losses["commitment"] / trained.config.commitment, io["commitment_loss"], atol=0)
    (out.losses["commitment"] + (out.vectors * vectors(io["grad_out"])).sum()).backward()
    assert inputs.grad is not None
    same(inputs.grad, vectors(io["grad_pre_quant"]), atol=1e-5, rtol=1e-4)


def test_fewer_depths_write_the_first_codes_and_have_their_losses(trained: ResidualQuantizer, io: Arrays) -> None:
    inputs, totals = vectors(io["pre_quant"]), [torch.zeros(())]
    for depth in range(1, trained.depth + 1):
        part = ResidualQuantizer(trained.config.model_copy(update={"depth": depth, "commitment": 1.0})).eval()
        part.load_state_dict(trained.state_dict())
        out = part(inputs)
        assert np.array_equal(out.ids.numpy(), io["codes"][..., :depth].reshape(out.ids.shape))
        totals.append(depth * out.losses["commitment"])  # the loss is a mean over depths
    same(torch.stack(totals).diff(), io["partial_losses"], atol=0)


def test_codes_of_some_depths(trained: ResidualQuantizer, io: Arrays) -> None:
    ids = torch.from_numpy(io["codes"]).flatten(1, 2)
    same(trained.lookup(ids), vectors(io["embed_code"]))
    by_depth = vectors(io["embed_with_depth"])
    same(trained.by_depth(ids), by_depth)
    for depth in range(trained.depth):
        same(trained.partial(ids, depth + 1), vectors(io[f"cum_quant_{depth}"]))
        same(trained.partial(ids, depth + 1, "select"), by_depth[:, :, depth])
        same(trained.partial(ids[..., : depth + 1], depth + 1), vectors(io[f"cum_quant_{depth}"]))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
def test_soft_codes(trained: ResidualQuantizer, io: Arrays, temperature: float) -> None:
    ids, soft = trained.soft_codes(vectors(io["pre_quant"]), temperature)
    assert np.array_equal(ids.numpy(), io["codes"].reshape(ids.shape))
    same(soft, vectors(io[f"soft_codes_temp{temperature}"]))


def test_soft_codes_follow_the_code_that_was_drawn(
    trained: ResidualQuantizer, io: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter(torch.from_numpy(io["stochastic_codes_temp0.5"]).flatten(0, -2).unbind(dim=1))
    monkeypatch.setattr(rq, "draw", lambda probabilities: next(drawn))
    ids, soft = trained.soft_codes(vectors(io["pre_quant"]), 0.5, stochastic=True)
    assert np.array_equal(ids.numpy(), io["stochastic_codes_temp0.5"].reshape(ids.shape))
    same(soft, vectors(io["stochastic_soft_codes_temp0.5"]))
