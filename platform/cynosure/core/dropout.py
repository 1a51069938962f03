"""Code dropout (UViM, section 2.3): a base model that must also work with some or none of its codes."""

from __future__ import annotations

import torch


def keep_mask(
    batch: int,
    length: int,
    probability: float,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Which codes survive, bool [B, L].

    With `probability` an example is thinned to k codes at random positions, k uniform in {0, ..., L}; otherwise it
    keeps all. UViM thins every example (probability 1). Nothing is rescaled. Draws are made on the generator's device,
    so that a CPU generator gives the same mask everywhere.
    """
    source = generator.device if generator is not None else torch.device(device)
    draws = torch.rand(batch, length + 2, generator=generator, device=source)
    thinned = draws[:, 0] < probability
    kept = torch.where(thinned, kept_codes(draws[:, 1], length), length)
    shuffled = draws[:, 2:].argsort(dim=1)
    return (shuffled < kept[:, None]).to(device)


def kept_codes(thresholds: torch.Tensor, length: int) -> torch.Tensor:
    """How many of L codes survive uniform thresholds in [0, 1), int64 [B]: those with 1 - i / (L + 1) above them."""
    importance = 1 - torch.arange(1, length + 1, dtype=torch.float32, device=thresholds.device) / (length + 1)
    return (importance > thresholds[:, None]).sum(dim=1)
