"""Transformer blocks that a condition modulates, as VAR has them. Shapes: B batch, N tokens, d width, h heads."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from cynosure.core.blocks import MLP, NORM_EPS, KVCache, TransformerBlock

SHARPEST = math.log(100)


class CosineAttention(nn.Module):
    """Self-attention by the cosine of queries and keys times a learned factor a head, from 4 to at most 100."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not a multiple of {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.sharpness = nn.Parameter(torch.full((heads, 1, 1), math.log(4)))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, cache: KVCache | None) -> torch.Tensor:
        """x [B, N, d] -> [B, N, d]. `mask` bool [N, N] says which tokens (columns) each token (rows) sees, None: all;
        with a cache, x holds the next tokens, which see all cached ones."""
        B, N, d = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q = F.normalize(q, dim=-1) * self.sharpness.clamp_max(SHARPEST).exp().to(v.dtype)
        k = F.normalize(k, dim=-1)
        if cache is not None:
            k, v = cache.append(k, v)
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, mask, scale=1.0)
        return self.out(y.transpose(1, 2).reshape(B, N, d))


class AdaptiveBlock(TransformerBlock):
    """x + g CosineAttention(norm(x) (1 + s) + t), then the same with an MLP; all g, s, t are linear in SiLU(condition).

    The norms have no weights of their own. `drop_path` is the share of rows whose branches training leaves out.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS, elementwise_affine=False)
        self.attention = CosineAttention(dim, heads)
        self.mlp = MLP(dim, mlp_dim)
        self.modulation = nn.Linear(dim, 6 * dim)

    def modulate(self, condition: torch.Tensor) -> torch.Tensor:
        """Condition [B, d] -> [6, B, 1, d]: g, s and t of the attention, then of the MLP."""
        return self.modulation(F.silu(condition)).unflatten(1, (6, 1, -1)).transpose(0, 1)

    def forward(
        self,
        x: torch.Tensor,
        modulated: torch.Tensor,
        mask: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """x [B, N, d] -> [B, N, d], with what `modulate` gave."""
        gate, scale, shift, mlp_gate, mlp_scale, mlp_shift = modulated
        x = x + self._thin(gate * self.attention(self.norm(x) * (1 + scale) + shift, mask, cache))
        return x + self._thin(mlp_gate * self.mlp(self.norm(x) * (1 + mlp_scale) + mlp_shift))

    def _thin(self, y: torch.Tensor) -> torch.Tensor:
        if not self.training or self.drop_path == 0:
            return y
        kept = torch.rand(len(y), 1, 1, device=y.device) >= self.drop_path
        return y * kept / (1 - self.drop_path)


class AdaptiveNorm(nn.Module):
    """norm(x) (1 + s) + t, with s and t linear in SiLU(condition)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """x [B, N, d] and condition [B, d] -> [B, N, d]."""
        scale, shift = self.modulation(F.silu(condition))[:, None].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift
