"""The regularisers of Tripod (Hsu et al. 2024, "Tripod: three complementary inductive biases", released code).

What `multi_information` of quantizer `latent` and `curvature` of base `qlae` weigh. Shapes: B batch, d latents, k
directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

Decoder = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
"""Latents [n, d] -> activations [n, ...] by the name of the layer."""
SMALLEST_SPREAD = 1e-6
SMALLEST_CURVATURE = 1e-10


def spread(latents: torch.Tensor) -> torch.Tensor:
    """Standard deviation [d] of bounded latents [B, d] over a batch, never 0."""
    return latents.std(dim=0, correction=0) + SMALLEST_SPREAD


def multi_information(latents: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """log q(z) - sum_k log q_k(z_k) of every latent vector, in nats [B]; its mean estimates the total correlation.

    The densities are sums of Gaussian kernels at the latents [B, d] of the batch, the point itself among them. Kernels
    of the marginals have the standard deviation `std` [d]; those of the joint density Silverman's factor times it.
    """
    B, d = latents.shape
    distances = ((latents[:, None] - latents) / std).square()  # [B, B, d], in standard deviations
    silverman = (B * (d + 2) / 4) ** (-1 / (d + 4))
    scale = std.log() + math.log(2 * math.pi) / 2
    joint = torch.logsumexp(-distances.sum(-1) / (2 * silverman**2), dim=1) - (scale + math.log(silverman)).sum()
    marginal = torch.logsumexp(-distances / 2, dim=1) - scale
    return joint - math.log(B) - (marginal - math.log(B)).sum(-1)


def curvature(
    decoder: Decoder, latents: torch.Tensor, directions: torch.Tensor, std: torch.Tensor, eps: float = 0.1
) -> dict[str, torch.Tensor]:
    """[B] by layer: how much a second difference of the decoder depends on its direction (Hessian penalty).

    At `latents` [B, d] the second differences along `directions` [B, k, d], in steps of `eps` times `std` [d]; their
    variance over the k directions, averaged over a layer's activations. With Rademacher directions its expectation
    grows with the squared off-diagonal elements of the Hessian alone (Peebles et al. 2020, "The Hessian penalty").
    """
    B, k, _ = directions.shape
    steps = eps * directions * std
    at = torch.cat([latents[:, None] - steps, latents[:, None] + steps, latents[:, None]], dim=1)
    layers = {name: found.float().unflatten(0, (B, -1)) for name, found in decoder(at.flatten(0, 1)).items()}
    seconds = {name: (x[:, :k] + x[:, k : 2 * k] - 2 * x[:, 2 * k :]) / eps**2 for name, x in layers.items()}
    return {name: second.var(dim=1, correction=0).flatten(1).mean(1) for name, second in seconds.items()}


def normalized_curvature(
    decoder: Decoder,
    latents: torch.Tensor,
    rademacher: torch.Tensor,
    normal: torch.Tensor,
    std: torch.Tensor,
    eps: float = 0.1,
) -> dict[str, torch.Tensor]:
    """`curvature` along Rademacher directions over that along Gaussian ones, which sees the diagonal too.

    The quotient cannot be lowered by making the decoder flat. Both directions are [B, k, d]; [B] by layer.
    """
    across = curvature(decoder, latents, rademacher, std, eps)
    every = curvature(decoder, latents, normal, std, eps)
    return {name: across[name] / (every[name] + SMALLEST_CURVATURE) for name in across}
