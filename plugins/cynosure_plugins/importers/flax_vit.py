"""The ViT of Google's Flax repositories: names and shapes of its arrays, and the tensors of ours that they make.

Names begin with `params/`. Shapes: d width; kernels are [in..., out...].
"""

from __future__ import annotations

import re

from cynosure_plugins.importers.arrays import CONV, FLAT, LINEAR, MERGE, SAME, Layout, Made, Shape

ANY = -1
"""A size that is not known, because the array that tells it is missing or of the wrong rank."""
Table = dict[str, Made]
Shapes = dict[str, Shape]
_OLD = {"LayerNorm_2": "LayerNorm_1", "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0"}
_OLD |= {"MlpBlock_3": "MlpBlock_0"}


def modern(name: str) -> str:
    """The name that an array of any checkpoint has today: with its collection in front, layers counted by kind."""
    name = name.removeprefix("opt/target/")
    if not name.startswith(("params/", "state/")):
        name = f"params/{name}"
    return re.sub(r"(?<=encoderblock_)(\d+)/(\w+)", lambda m: f"{m[1]}/{_OLD.get(m[2], m[2])}", name)


def made(layout: Layout, *names: str) -> Made:
    return Made(tuple(f"params/{name}" for name in names), layout)


def layer(ours: str, theirs: str, layout: Layout) -> Table:
    return {f"{ours}.weight": made(layout, f"{theirs}/kernel"), f"{ours}.bias": made(FLAT, f"{theirs}/bias")}


def patches(ours: str, theirs: str) -> Table:
    """A patch embedding."""
    return layer(ours, theirs, CONV)


def norm(ours: str, theirs: str) -> Table:
    return {f"{ours}.weight": made(SAME, f"{theirs}/scale"), f"{ours}.bias": made(SAME, f"{theirs}/bias")}


def mlp(ours: str, theirs: str) -> Table:
    return {**layer(f"{ours}.0", f"{theirs}/Dense_0", LINEAR), **layer(f"{ours}.2", f"{theirs}/Dense_1", LINEAR)}


def transformer(ours: str, theirs: str, depth: int) -> Table:
    """The tensors of `core.blocks.Transformer`."""
    table = norm(f"{ours}.norm", f"{theirs}/encoder_norm")
    for i in range(depth):
        table |= _block(f"{ours}.blocks.{i}", f"{theirs}/encoderblock_{i}")
    return table


def _block(ours: str, theirs: str) -> Table:
    attention = f"{theirs}/MultiHeadDotProductAttention_0"
    fused = [f"{attention}/{part}" for part in ("query", "key", "value")]
    return {
        **norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0"),
        f"{ours}.attention.qkv.weight": made(LINEAR, *[f"{part}/kernel" for part in fused]),
        f"{ours}.attention.qkv.bias": made(FLAT, *[f"{part}/bias" for part in fused]),
        **layer(f"{ours}.attention.out", f"{attention}/out", MERGE),
        **norm(f"{ours}.norm2", f"{theirs}/LayerNorm_1"),
        **mlp(f"{ours}.mlp", f"{theirs}/MlpBlock_0"),
    }


def layer_shapes(name: str, kernel: Shape, bias: Shape) -> Shapes:
    return {f"params/{name}/kernel": kernel, f"params/{name}/bias": bias}


def norm_shapes(name: str, d: int) -> Shapes:
    return {f"params/{name}/scale": (d,), f"params/{name}/bias": (d,)}


def mlp_shapes(name: str, d: int, hidden: int) -> Shapes:
    return {
        **layer_shapes(f"{name}/Dense_0", (d, hidden), (hidden,)),
        **layer_shapes(f"{name}/Dense_1", (hidden, d), (d,)),
    }


def transformer_shapes(name: str, depth: int, d: int, heads: int, mlp_dim: int) -> Shapes:
    found = norm_shapes(f"{name}/encoder_norm", d)
    hidden = (heads, per_head(d, heads))
    for i in range(depth):
        block = f"{name}/encoderblock_{i}"
        attention = f"{block}/MultiHeadDotProductAttention_0"
        for part in ("query", "key", "value"):
            found |= layer_shapes(f"{attention}/{part}", (d, *hidden), hidden)
        found |= layer_shapes(f"{attention}/out", (*hidden, d), (d,))
        found |= {**norm_shapes(f"{block}/LayerNorm_0", d), **norm_shapes(f"{block}/LayerNorm_1", d)}
        found |= mlp_shapes(f"{block}/MlpBlock_0", d, mlp_dim)
    return found


def per_head(d: int, heads: int) -> int:
    return d // heads if d > 0 and heads > 0 else ANY
