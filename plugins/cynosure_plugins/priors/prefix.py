"""What a sequence of codes begins with: the task, then what the encoder says of the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from cynosure.core.guidance import ConditionDropout, copies, require_guidance

INITIAL_STD = 0.02


class Prefix(nn.Module):
    """A learned vector a task and the context, brought to width d. `context_dim` None: there is no context.

    Raises ValueError for `condition_dropout` without a context.
    """

    def __init__(self, dim: int, tasks: Iterable[str], context_dim: int | None, condition_dropout: float) -> None:
        super().__init__()
        if context_dim is None and condition_dropout > 0:
            raise ValueError(
                "condition_dropout drops what an encoder says; add model.prior.encoder or set condition_dropout to 0"
            )
        self.tasks = nn.ParameterDict({t: nn.Parameter(torch.randn(dim) * INITIAL_STD) for t in tasks})
        self.project = nn.Identity() if context_dim in (None, dim) else nn.Linear(context_dim or dim, dim)
        self.condition = ConditionDropout(dim, condition_dropout)
        self.nothing: torch.Tensor
        self.register_buffer("nothing", torch.empty(1, 0, dim), persistent=False)

    def forward(self, context: torch.Tensor | None, batch: int, task: str, guidance: float = 1.0) -> torch.Tensor:
        """Context [B, N, c] -> [B, P, d], or [2B, P, d] of which the last B have no context where guidance is not 1."""
        parts = [self.nothing.expand(batch * copies(guidance), -1, -1)]
        if task in self.tasks:
            parts.append(self.tasks[task].expand(batch * copies(guidance), 1, -1))
        if context is None:
            require_guidance(guidance, learned=False)
        else:
            parts.append(self.condition.pair(self.condition(self.project(context)), guidance))
        return torch.cat([part.to(parts[-1].dtype) for part in parts], 1)


def initialize(module: nn.Module, truncate: float | None = None, std: float = INITIAL_STD) -> None:
    """Weights of all linear layers and embeddings N(0, std), cut at `truncate` sigmas; biases 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Embedding)):
            weight = layer.weight.data
            if truncate is None:
                weight.normal_(std=std)
            else:  # torch's own draws until all fit, which never ends in a dry run
                edge = math.erf(truncate / math.sqrt(2))
                weight.uniform_(-edge, edge).erfinv_().mul_(std * math.sqrt(2))
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
