"""The `vq` and `gumbel` quantizers against arrays computed by taming-transformers and MaskGIT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cynosure_plugins.quantizers import gumbel
from cynosure_plugins.quantizers.entropy import codebook_entropy
from cynosure_plugins.quantizers.vq import VectorQuantizer

BETA = 0.25  # of every released VQGAN
TEMPERATURES = ("1.0", "0.5")


def rows(array: np.ndarray) -> torch.Tensor:
    """An array [B, C, h, w] as vectors [B, h * w, C]."""
    return torch.from_numpy(array).flatten(2).transpose(1, 2).contiguous()


def same(found: torch.Tensor, wanted: np.ndarray | torch.Tensor, atol: float = 2e-5, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), atol=atol, rtol=rtol)


@pytest.mark.parametrize("variant", ["legacy", "fixed"])
def test_vqgan_codes_losses_and_gradients(golden: Path, variant: str) -> None:
    """The released models were trained with beta on the wrong term: its value is the same, its gradients are not."""
    arrays = np.load(golden / "vqgan" / "vq_quantizer.npz")
    book = torch.from_numpy(arrays["codebook"])
    part = VectorQuantizer(
        VectorQuantizer.Config(
            vocab_size=book.shape[0],
            dim=book.shape[1],
            update="gradient",
            normalize=False,
            min_count=0,
            commitment=BETA,
            legacy_beta=variant == "legacy",
        )
    )
    part.weight.data.copy_(book)
    vectors = rows(arrays["z"]).requires_grad_()
    out = part(vectors)
    assert np.array_equal(out.ids.flatten().numpy(), arrays["indices"].flatten())
    same(out.vectors, rows(arrays["quantized"]))
    same(part.lookup(out.ids), rows(arrays["quantized"]))
    loss = sum(out.losses.values(), torch.zeros(()))
    same(loss, arrays[f"loss_{variant}"])
    (loss + (out.vectors * rows(arrays["grad_out"])).sum()).backward()
    assert vectors.grad is not None and part.weight.grad is not None
    same(vectors.grad, rows(arrays[f"grad_z_{variant}"]), atol=1e-5, rtol=1e-4)
    same(part.weight.grad, arrays[f"grad_codebook_{variant}"], atol=1e-5, rtol=1e-4)
    shares = out.usage / out.usage.sum()
    same(torch.special.entr(shares).sum().exp(), arrays["perplexity"], rtol=1e-4)


@pytest.mark.parametrize(("name", "unknown"), [("extra", "extra"), ("zero", 0)])
def test_vqgan_renumbered_codes(golden: Path, name: str, unknown: Any) -> None:
    arrays = np.load(golden / "vqgan" / "vq_quantizer.npz")
    used = tuple(int(code) for code in arrays["remap_used"])
    sizes = {"vocab_size": len(arrays["codebook"]), "dim": arrays["codebook"].shape[1]}
    options = {"update": "gradient", "normalize": False, "min_count": 0, "used": used, "unknown": unknown}
    part = VectorQuantizer(VectorQuantizer.Config(**sizes, **options)).eval()
    part.weight.data.copy_(torch.from_numpy(arrays["codebook"]))
    out = part(rows(arrays["z"]))
    assert part.vocab_size == arrays[f"remap_{name}_re_embed"]
    assert np.array_equal(out.ids.flatten().numpy(), arrays[f"remap_{name}_indices"].flatten())
    same(part.lookup(out.ids), rows(arrays[f"remap_{name}_lookup"]))
    same(out.vectors, rows(arrays["quantized"]))


class Gumbel:
    """The recorded quantizer. It writes vectors narrower than those it reads, here filled up with zeros."""

    def __init__(self, golden: Path, temperature: str, hard: bool) -> None:
        self.arrays = arrays = dict(np.load(golden / "vqgan" / "gumbel_quantizer.npz"))
        projection, book = (torch.from_numpy(arrays[f"{name}.weight"]) for name in ("proj", "embed"))
        self.missing = projection.shape[1] - book.shape[1]
        config = gumbel.GumbelQuantizer.Config(
            vocab_size=len(book),
            dim=projection.shape[1],
            kl=float(arrays["kl_weight"]),
            temperature=float(temperature),
            straight_through=hard,
        )
        self.part = gumbel.GumbelQuantizer(config)
        self.part.project.weight.data.copy_(projection[:, :, 0, 0])
        self.part.project.bias.data.copy_(torch.from_numpy(arrays["proj.bias"]))
        self.part.codebook.weight.data.copy_(self.filled(book))
        self.vectors = rows(arrays["h"])

    def filled(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(vectors, (0, self.missing))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("mode", ["train_soft", "train_hard", "eval"])
def test_gumbel_codes_loss_and_gradients(
    golden: Path, temperature: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code takes one noisy code a vector in evaluation too, which here only training does."""
    case = Gumbel(golden, temperature, hard=mode != "train_soft")
    arrays, where = case.arrays, f"tau{temperature}/{mode}"
    noise = rows(arrays["gumbel_noise"]).flatten(0, 1)
    monkeypatch.setattr(gumbel, "gumbel_noise", lambda like: noise.view_as(like))
    vectors = case.vectors.requires_grad_()
    out = case.part.train()(vectors)
    assert np.array_equal(out.ids.flatten().numpy(), arrays[f"{where}/indices"].flatten())
    same(out.vectors, case.filled(rows(arrays[f"{where}/quantized"])))
    same(out.losses["kl"], arrays[f"{where}/kl"], atol=0)
    (out.losses["kl"] + (out.vectors * case.filled(rows(arrays["grad_out"]))).sum()).backward()
    gradient = case.part.project.weight.grad
    assert vectors.grad is not None and gradient is not None
    same(vectors.grad, rows(arrays[f"{where}/grad_h"]), atol=1e-5, rtol=1e-4)
    same(gradient, arrays[f"{where}/grad_proj_weight"][:, :, 0, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gumbel_evaluation_takes_the_likeliest_code(golden: Path, temperature: str) -> None:
    """Unlike the published code, whose codes are random in evaluation too."""
    case = Gumbel(golden, temperature, hard=True)
    out = case.part.eval()(case.vectors)
    same(case.part.project(case.vectors), rows(case.arrays["logits"]))
    assert np.array_equal(out.ids.flatten().numpy(), case.arrays["argmax_logits"].flatten())
    same(out.losses["kl"], case.arrays[f"tau{temperature}/eval/kl"], atol=0)
    assert torch.equal(out.vectors, case.part.lookup(out.ids))


def test_maskgit_losses(golden: Path) -> None:
    io = np.load(golden / "maskgit" / "tokenizer_io.npz")
    book = torch.from_numpy(np.load(golden / "maskgit" / "tokenizer_params.npz")["params/quantizer/codebook"])
    config = json.loads(str(io["config"]))
    part = VectorQuantizer(
        VectorQuantizer.Config(
            vocab_size=book.shape[0],
            dim=book.shape[1],
            update="gradient",
            normalize=False,
            min_count=0,
            commitment=config["commitment_cost"],
            entropy=config["entropy_loss_ratio"],
            entropy_temperature=config["entropy_temperature"],
        )
    )
    part.weight.data.copy_(book)
    out = part(torch.from_numpy(io["pre_quant"]).flatten(1, 2))
    assert np.array_equal(out.ids.flatten().numpy(), io["codes"].flatten())
    same(out.losses["commitment"], io["train_e_latent_loss"], rtol=1e-4)
    same(out.losses["codebook"], io["train_q_latent_loss"], rtol=1e-4)
    same(out.losses["entropy"], io["train_entropy_loss"], rtol=1e-4)
    same(sum(out.losses.values(), torch.zeros(())), io["train_quantizer_loss"], rtol=1e-4)


@pytest.mark.parametrize("targets", ["softmax", "argmax"])
@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_maskgit_entropy_of_given_affinities(golden: Path, temperature: float, targets: str) -> None:
    arrays = np.load(golden / "maskgit" / "losses.npz")
    affinity = torch.from_numpy(arrays["affinity"]).flatten(0, -2)
    # Vectors x with codewords e = unit vectors: -|x - e|² is 2 x plus what all codes share.
    found = codebook_entropy(affinity / 2, torch.eye(affinity.shape[1]), temperature, targets == "argmax")
    same(found, arrays[f"entropy_{targets}_{temperature}"], rtol=1e-4)
