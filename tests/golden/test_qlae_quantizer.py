"""The quantizer `latent` against arrays computed by the published QLAE and Tripod code, and Tripod's regularisers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from cynosure_plugins.quantizers import tripod
from cynosure_plugins.quantizers.latent import LatentQuantizer
from cynosure_plugins.quantizers.vq import VectorQuantizer

Arrays = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def arrays(golden: Path) -> Arrays:
    with np.load(golden / "qlae" / "quantizer.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def legs(golden: Path) -> dict[str, torch.Tensor]:
    with np.load(golden / "qlae" / "tripod.npz") as file:
        return {name: torch.from_numpy(np.asarray(array)) for name, array in file.items()}


def table(arrays: Arrays, kind: str) -> list[np.ndarray]:
    """The arrays `kind__0`, `kind__1`, ... of one codebook a dimension."""
    return [arrays[f"{kind}__{j}"] for j in range(sum(name.startswith(f"{kind}__") for name in arrays))]


def latent(values: list[np.ndarray], dim: int, **options: object) -> LatentQuantizer:
    """A quantizer with these codebooks, or this one codebook, that all `dim` dimensions share."""
    sizes = [len(values[j % len(values)]) for j in range(dim)]
    config = LatentQuantizer.Config.model_validate({"sizes": sizes, "shared": len(values) < dim, **options})
    part = LatentQuantizer(config)
    part.values.data.copy_(torch.from_numpy(np.concatenate(values)))
    return part


def same(found: torch.Tensor, wanted: np.ndarray | torch.Tensor, atol: float = 1e-6, rtol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), atol=atol, rtol=rtol)


@pytest.mark.parametrize("case", ["uniform", "learned"])
def test_codes_losses_and_gradients(arrays: Arrays, case: str) -> None:
    """The quantisation loss moves the values, the commitment loss the encoder, and each nothing else."""
    values = table(arrays, f"{case}__values")
    pull, commitment = (float(x) for x in arrays[f"{case}__lambdas"])
    z, w = (torch.from_numpy(arrays[f"{case}__{name}"])[:, None] for name in ("z", "w"))
    part = latent(values, z.shape[-1], quantization=pull, commitment=commitment)
    z.requires_grad_()
    out = part(z)
    assert np.array_equal(out.ids[:, 0].numpy(), arrays[f"{case}__indices"])
    same(out.vectors[:, 0], arrays[f"{case}__z_hat"])
    same(part.lookup(out.ids)[:, 0], arrays[f"{case}__quantized"])
    same(out.losses["quantization"] / pull, arrays[f"{case}__quantization_loss"].mean())
    same(out.losses["commitment"] / commitment, arrays[f"{case}__commitment_loss"].mean())
    objective = (w * out.vectors).sum() / len(z) + sum(out.losses.values())
    same(objective, arrays[f"{case}__objective"])
    objective.backward()
    assert z.grad is not None and part.values.grad is not None
    same(z.grad[:, 0], arrays[f"{case}__grad_z"], atol=1e-7, rtol=1e-5)
    same(part.values.grad, np.concatenate(table(arrays, f"{case}__grad_values")), atol=1e-7, rtol=1e-5)


def test_the_first_of_equally_near_values_wins(arrays: Arrays) -> None:
    z = torch.from_numpy(arrays["ties__z"])[:, None]
    out = latent(table(arrays, "ties__values"), z.shape[-1])(z)
    assert np.array_equal(out.ids[:, 0].numpy(), arrays["ties__indices"])
    same(out.vectors[:, 0], arrays["ties__z_hat"])


def test_one_codebook_for_all_dimensions(arrays: Arrays) -> None:
    z = torch.from_numpy(arrays["global__z"])[:, None]
    out = latent([arrays["global__values"]], z.shape[-1])(z)
    assert np.array_equal(out.ids[:, 0].numpy(), arrays["global__indices"])
    same(out.vectors[:, 0], arrays["global__z_hat"])


def test_the_vector_quantizer_of_the_ablation_is_vq(arrays: Arrays) -> None:
    book = torch.from_numpy(arrays["vq__embeddings"])
    options = {"vocab_size": len(book), "dim": book.shape[1], "update": "gradient", "normalize": False, "min_count": 0}
    part = VectorQuantizer(VectorQuantizer.Config.model_validate(options))
    part.weight.data.copy_(book)
    z = torch.from_numpy(arrays["vq__z"])
    out = part(z.unflatten(1, (-1, book.shape[1])))
    assert np.array_equal(out.ids[..., 0].numpy(), arrays["vq__indices"])
    same(out.vectors.flatten(1), arrays["vq__z_hat"])


def test_tripods_grid(legs: dict[str, torch.Tensor]) -> None:
    latents, values, _ = (int(x) for x in legs["cfg"])
    part = LatentQuantizer(LatentQuantizer.Config(sizes=(values,) * latents, codebook="tanh"))
    z = legs["z"][:, None].clone().requires_grad_()
    out = part(z)
    same(out.vectors[:, 0], legs["z_q"])
    same(part.lookup(out.ids)[:, 0], legs["z_q"])
    assert not out.losses, "Tripod's grid has no losses"
    (legs["w"] * out.vectors[:, 0]).sum().backward()
    assert z.grad is not None
    same(z.grad[:, 0], legs["grad_z"], rtol=1e-5)


def test_tripods_multi_information(legs: dict[str, torch.Tensor]) -> None:
    std = tripod.spread(legs["z_c"])
    same(std, legs["z_std"])
    same(tripod.multi_information(legs["z_q"], std), legs["multiinformation"], rtol=1e-4)


def test_bandwidth_of_tripods_joint_density(legs: dict[str, torch.Tensor]) -> None:
    """Two equal heaps of latents, apart in one dimension, whose densities follow from the variances of the kernels."""
    std, joint, marginal = legs["z_std"], legs["bandwidth_var"], legs["z_std"].square()
    narrowing = (marginal / joint).log().sum() / 2
    for k in range(len(std)):
        latents = torch.zeros_like(legs["z"])
        latents[::2, k] = std[k]
        near = [(-marginal[k] / (2 * variance[k])).exp().log1p() for variance in (joint, marginal)]
        wanted = (near[0] - near[1] + narrowing).expand(len(latents))
        same(tripod.multi_information(latents, std), wanted, atol=0, rtol=1e-4)


def test_tripods_hessian_penalties(legs: dict[str, torch.Tensor]) -> None:
    def decoder(z: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.tanh(z @ legs["W1"])
        return {"a": hidden, "b": hidden @ legs["W2"]}

    at, eps = [legs[name][None] for name in ("z0", "rademacher", "normal")], float(legs["eps"])
    plain = tripod.curvature(decoder, at[0], at[1], legs["z_std"], eps)
    normalized = tripod.normalized_curvature(decoder, at[0], at[1], at[2], legs["z_std"], eps)
    for layer in ("a", "b"):
        same(plain[layer][0], legs[f"hp_{layer}"], rtol=1e-4)
        same(normalized[layer][0], legs[f"hpn_{layer}"], rtol=1e-4)
