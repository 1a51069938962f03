"""How the gradient passes a quantizer. Shapes: B batch, N vectors, d width."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F

Estimator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def straight_through(vectors: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Exactly the codewords `chosen` [B, N, d], with the gradient of `vectors` [B, N, d] (Bengio et al. 2013)."""
    return chosen.detach() + (vectors - vectors.detach())  # the bracket is zero


def rotation(vectors: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Exactly the codewords `chosen`, with the gradient of the rotation and scaling that leads from each vector there.

    The map is constant in the backward pass (Fifty et al. 2024, "Restructuring vector quantization with the rotation
    trick", section 4.2): the angle between gradient and codeword becomes that between gradient and vector.
    """
    vector, codeword = vectors.detach(), chosen.detach()
    start, end = F.normalize(vector, dim=-1), F.normalize(codeword, dim=-1)
    half = F.normalize(start + end, dim=-1)
    scale = codeword.norm(dim=-1, keepdim=True) / vector.norm(dim=-1, keepdim=True).clamp_min(1e-6)

    def along(direction: torch.Tensor) -> torch.Tensor:
        return (vectors * direction).sum(-1, keepdim=True)

    turned = scale * (vectors - 2 * half * along(half) + 2 * end * along(start))
    return straight_through(turned, codeword)


GRADIENTS: Mapping[str, Estimator] = {"straight_through": straight_through, "rotation": rotation}
