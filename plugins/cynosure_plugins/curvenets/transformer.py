"""The transformer of STAR: narrow pre-norm blocks whose attention may know where its tokens stand.

Modules are nested as in the published state dicts, so that names agree. Shapes: B batch, N tokens, d width, h heads.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention; by default logits are scaled by d^-0.5, the whole width, as published."""

    def __init__(self, dim: int, heads: int, scale: float | None = None) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not a multiple of {heads} heads")
        self.heads, self.scale = heads, scale or dim**-0.5
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """x [B, N, d] -> [B, N, d]; positions [N, d] or [B, N, d] are added to queries and keys."""
        queries, keys, values = self.to_qkv(x).chunk(3, dim=-1)
        if positions is not None:
            queries, keys = queries + positions, keys + positions
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (queries, keys, values))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.to_out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        dropout = nn.Identity()  # holds the place that dropout has in the published names
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), dropout, nn.Linear(hidden, dim))

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        return self.net(x)


class PreNorm(nn.Module):
    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        return self.fn(self.norm(x), positions)


class Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        return x + self.fn(x, positions)


class Block(nn.ModuleList):
    """Attention, then MLP."""

    def __init__(self, dim: int, heads: int, hidden: int, scale: float | None) -> None:
        super().__init__(Residual(PreNorm(dim, part)) for part in (Attention(dim, heads, scale), MLP(dim, hidden)))

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        for part in self:
            x = part(x, positions)
        return x


class Transformer(nn.Module):
    """Blocks of attention and MLP, without a last norm."""

    def __init__(self, dim: int, depth: int, heads: int, hidden: int, scale: float | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(dim, heads, hidden, scale) for _ in range(depth))

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens [B, N, d], and where they stand, [N, d] or [B, N, d] -> [B, N, d]."""
        for block in self.layers:
            x = block(x, positions)
        return x
