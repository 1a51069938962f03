"""Transformer blocks that every plugin may build on, on scaled_dot_product_attention.

Unless told otherwise pre-norm blocks with the ViT's conventions (LayerNorm eps 1e-6, tanh GELU), as UViM uses them.
Shapes: B batch, N tokens, M context tokens, d width, h heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn
from torch.nn import functional as F

NORM_EPS = 1e-6
LayerT = TypeVar("LayerT", bound=nn.Module)
WeightedT = TypeVar("WeightedT", nn.Linear, nn.Conv2d)
Shape = tuple[int, ...]
Gelu = Literal["tanh", "none"]
"""How GELU is computed: the tanh approximation, or exactly."""


@runtime_checkable
class Published(Protocol):
    """A module that keeps fused what published code keeps apart, which an optimizer that averages over axes must know.

    `published_shapes` are shapes by the name of the parameter: of a reshape that has the published axes, in some order,
    besides small ones for what is fused. -1 is what is left.
    """

    def published_shapes(self) -> dict[str, Shape]: ...


@dataclass
class KVCache:
    """Keys and values [B, h, N, d/h] of one self-attention layer, filled up to `length`; for sampling only."""

    keys: torch.Tensor
    values: torch.Tensor
    length: int = 0

    @classmethod
    def empty(cls, batch: int, heads: int, tokens: int, head_dim: int, like: torch.Tensor) -> KVCache:
        shape = (batch, heads, tokens, head_dim)
        return cls(like.new_empty(shape), like.new_empty(shape))

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values [B, h, n, d/h] in place; returns views of all that is cached."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection; in training, attention weights may be dropped."""

    def __init__(self, dim: int, heads: int, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not a multiple of {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)
        for piece in self.qkv.weight.data.chunk(3):
            nn.init.xavier_uniform_(piece)
        nn.init.xavier_uniform_(self.out.weight)
        if bias:
            nn.init.zeros_(self.qkv.bias)
            nn.init.zeros_(self.out.bias)

    def forward(
        self, x: torch.Tensor, causal: bool = False, cache: KVCache | None = None, prefix: int = 0
    ) -> torch.Tensor:
        """x [B, N, d] -> [B, N, d]; with a cache, x holds the next tokens only.

        If causal, the first `prefix` tokens see each other all the same.
        """
        B, N, d = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if cache is not None:
            if cache.length and N > 1:
                raise ValueError("a cache that holds tokens takes one more at a time")
            causal = causal and N > 1
            k, v = cache.append(k, v)
        mask = _causal_mask(N, prefix, x.device) if causal and prefix > 1 else None
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal and mask is None)
        return self.out(y.transpose(1, 2).reshape(B, N, d))

    def published_shapes(self) -> dict[str, Shape]:
        return _by_head(self.heads, self.out.in_features // self.heads, qkv=3)


class CrossAttention(nn.Module):
    """Attention from tokens to a context, whose keys and values are projected once and may be reused."""

    def __init__(self, dim: int, heads: int, context_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim, bias=bias)
        self.kv = nn.Linear(context_dim, 2 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)
        for weight in (self.q.weight, *self.kv.weight.data.chunk(2), self.out.weight):
            nn.init.xavier_uniform_(weight)
        if bias:
            for layer in (self.q, self.kv, self.out):
                nn.init.zeros_(layer.bias)

    def project(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Context [B, M, c] -> keys and values, each [B, h, M, d/h].

        They are contiguous, because sampling reads them again for every token: from memory, and twice as fast so.
        """
        B, M, _ = context.shape
        k, v = self.kv(context).view(B, M, 2, self.heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        return k, v

    def forward(self, x: torch.Tensor, keys_values: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """x [B, N, d] and projected context -> [B, N, d]."""
        B, N, d = x.shape
        q = self.q(x).view(B, N, self.heads, d // self.heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, *keys_values)
        return self.out(y.transpose(1, 2).reshape(B, N, d))

    def published_shapes(self) -> dict[str, Shape]:
        return _by_head(self.heads, self.out.in_features // self.heads, q=1, kv=2)


class MLP(nn.Sequential):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, gelu: Gelu = "tanh") -> None:
        layers = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        super().__init__(layers[0], nn.GELU(approximate=gelu), layers[1])
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)


class Norm(nn.LayerNorm):
    """LayerNorm whose scale and shift may be moved by `offset` [2, d], which costs nothing."""

    def forward(self, x: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
        if offset is None:
            return super().forward(x)
        return F.layer_norm(x, self.normalized_shape, self.weight + offset[0], self.bias + offset[1], self.eps)


class TransformerBlock(nn.Module):
    """What training compiles, computes again and shards as one, if the recipe says so; no block has a state."""


class Block(TransformerBlock):
    """x + SelfAttention(LN x), then x + MLP(LN x); `post_norm`: LN(x + SelfAttention(x)), then LN(x + MLP(x)).

    `dropout` is the share of attention weights and of what is added to x that training drops.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        eps: float = NORM_EPS,
        gelu: Gelu = "tanh",
        post_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = Norm(dim, eps=eps)
        self.attention = SelfAttention(dim, heads, dropout=dropout)
        self.norm2 = Norm(dim, eps=eps)
        self.mlp = MLP(dim, mlp_dim, gelu)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        causal: bool = False,
        cache: KVCache | None = None,
        prefix: int = 0,
        offsets: Sequence[torch.Tensor | None] | torch.Tensor = (None, None),
    ) -> torch.Tensor:
        """x [B, N, d] -> [B, N, d]; `offsets` [2, 2, d] are those of the two norms, other options of SelfAttention."""
        first, second = offsets
        if self.post_norm:
            x = self.norm1(x + self.dropout(self.attention(x, causal, cache, prefix)), first)
            return self.norm2(x + self.dropout(self.mlp(x)), second)
        x = x + self.dropout(self.attention(self.norm1(x, first), causal, cache, prefix))
        return x + self.dropout(self.mlp(self.norm2(x, second)))


class DecoderBlock(TransformerBlock):
    """Causal self-attention, cross-attention, MLP; attention without biases, as UViM's language model has it."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attention = SelfAttention(dim, heads, bias=False)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cross = CrossAttention(dim, heads, context_dim, bias=False)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, mlp_dim)

    def forward(
        self, x: torch.Tensor, keys_values: tuple[torch.Tensor, torch.Tensor], cache: KVCache | None = None
    ) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), causal=True, cache=cache)
        x = x + self.cross(self.norm2(x), keys_values)
        return x + self.mlp(self.norm3(x))


class Transformer(nn.Module):
    """A stack of blocks and a final norm, [B, N, d] -> [B, N, d].

    Of several `tasks` that share it each has norms of its own, as offsets from the shared ones: what a task wants to
    see more or less of, it says in a thousand numbers (docs/results.md). One task has none.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp_dim: int, tasks: Iterable[str] = ()) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        several = names if len(names := list(tasks)) > 1 else ()
        self.offsets = nn.ParameterDict({t: nn.Parameter(torch.zeros(depth, 2, 2, dim)) for t in several})

    def forward(self, x: torch.Tensor, task: str = "") -> torch.Tensor:
        own = self.offsets[task] if task in self.offsets else [(None, None)] * len(self.blocks)
        for block, offsets in zip(self.blocks, own, strict=True):
            x = block(x, offsets=offsets)
        return self.norm(x)


def published_shapes(model: nn.Module) -> dict[str, Shape]:
    """Shapes of all parameters of a model that differ from the published ones, by name."""
    modules = {prefix: m for prefix, m in model.named_modules() if isinstance(m, Published)}
    return {
        f"{prefix}.{name}".removeprefix("."): shape
        for prefix, module in modules.items()
        for name, shape in module.published_shapes().items()
    }


def _causal_mask(tokens: int, prefix: int, device: torch.device) -> torch.Tensor:
    """Which tokens (columns) each token (rows) sees, bool [N, N]."""
    mask = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
    mask[:prefix, :prefix] = True
    return mask


def _by_head(heads: int, size: int, **fused: int) -> dict[str, Shape]:
    """Attention by head: layers that hold `fused` projections each, [n * h * s, d], and the output layer [d, h * s]."""
    shapes: dict[str, Shape] = {"out.weight": (-1, heads, size)}
    for name, n in fused.items():
        shapes |= {f"{name}.weight": (n, heads, size, -1), f"{name}.bias": (n, heads, size)}
    return shapes


def patch_embedding(channels: int, dim: int, patch: int) -> nn.Conv2d:
    """A convolution that reads each patch x patch square once, LeCun-normal weights and zero bias."""
    return lecun_normal(nn.Conv2d(channels, dim, patch, patch))


def lecun_normal(layer: WeightedT) -> WeightedT:
    """The layer with weights N(0, 1 / inputs), not truncated, and bias 0: Flax's default, but for the cut tails."""
    nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def zero_initialized(layer: LayerT) -> LayerT:
    """The layer with all weights and biases 0, as heads start."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def channels_last(module: nn.Module) -> None:
    """Keep convolution kernels channels-last: a tenth faster on CPUs, and tokens need no copy."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def to_tokens(x: torch.Tensor) -> torch.Tensor:
    """[B, d, h, w] -> [B, h*w, d], row-major."""
    return x.flatten(2).transpose(1, 2)


def to_grid(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """[B, h*w, d] -> [B, d, h, w]."""
    return x.transpose(1, 2).unflatten(2, grid)


def unpatch(x: torch.Tensor, grid: tuple[int, int], patch: int) -> torch.Tensor:
    """Patch pixels [B, h*w, C*patch*patch] -> [B, C, h*patch, w*patch]."""
    return F.pixel_shuffle(to_grid(x, grid), patch)


def positions(tokens: int, dim: int) -> nn.Parameter:
    """Learned positions [1, N, d], N(0, 1/sqrt(d))."""
    return nn.Parameter(torch.randn(1, tokens, dim) * dim**-0.5)


def token_grid(image_size: tuple[int, int], patch: int, part: str) -> tuple[int, int]:
    """Rows and columns of patches; a size that is not a multiple is an error that names the part."""
    if image_size[0] % patch or image_size[1] % patch:
        raise ValueError(f"{part}: image size {image_size} is not a multiple of {patch}; change image_size or patch")
    return image_size[0] // patch, image_size[1] // patch
