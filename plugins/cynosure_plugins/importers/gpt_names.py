"""Which arrays of a minGPT checkpoint the blocks of a prior are made of; taming-transformers and RQ-Transformer have
the same. Shapes: d width, K vocabulary, T tokens of the published sequence, L code positions, P condition tokens."""

from __future__ import annotations

import numpy as np

from cynosure_plugins.importers.archive import Table
from cynosure_plugins.importers.arrays import FLAT, LINEAR_ROWS, SAME, Layout, Made, Shape, one, one_way, part


def same(ours: str, theirs: str, *shapes: Shape) -> Table:
    """A weight, and a bias where there are two shapes, as they are."""
    parts = zip(("weight", "bias"), shapes, strict=False)
    return {f"{ours}.{name}": Made((f"{theirs}.{name}",), SAME, shapes=(shape,)) for name, shape in parts}


def blocks(ours: str, theirs: str, count: int, d: int, hidden: int) -> Table:
    """`count` blocks; queries, keys and values are one layer here."""
    table: Table = {}
    for i in range(count):
        new, old = f"{ours}.{i}", f"{theirs}.{i}"
        fused = [f"{old}.attn.{name}" for name in ("query", "key", "value")]
        weights, biases = (tuple(f"{name}.{kind}" for name in fused) for kind in ("weight", "bias"))
        table[f"{new}.attention.qkv.weight"] = Made(weights, LINEAR_ROWS, shapes=((d, d),) * 3)
        table[f"{new}.attention.qkv.bias"] = Made(biases, FLAT, shapes=((d,),) * 3)
        table |= same(f"{new}.attention.out", f"{old}.attn.proj", (d, d), (d,))
        table |= same(f"{new}.norm1", f"{old}.ln1", (d,), (d,)) | same(f"{new}.norm2", f"{old}.ln2", (d,), (d,))
        table |= same(f"{new}.mlp.0", f"{old}.mlp.0", (hidden, d), (hidden,))
        table |= same(f"{new}.mlp.2", f"{old}.mlp.2", (d, hidden), (d,))
    return table


def gpt(depth: int, d: int, hidden: int, K: int, V: int, T: int, L: int, P: int = 1) -> Table:
    """Prior `gpt` of K codes after P tokens of a condition, the last of which has the first position of the prior."""
    return {
        "prior.embedding.weight": tokens(V, d, K),
        "prior.positions": Made(("pos_emb",), part(1, P - 1, L), shapes=((1, T, d),)),
        **blocks("prior.blocks", "blocks", depth, d, hidden),
        **same("prior.norm", "ln_f", (d,), (d,)),
        "prior.head.weight": Made(("head.weight",), part(0, 0, K), shapes=((V, d),)),
    }


def tokens(V: int, d: int, count: int) -> Made:
    """The first of the V tokens' vectors."""
    return Made(("tok_emb.weight",), part(0, 0, count), shapes=((V, d),))


def after_label(V: int, d: int, classes: int) -> Table:
    """Encoder `label` of the first of V tokens."""
    return {"prior.encoder.embedding.weight": tokens(V, d, classes)}


def after_start(V: int, d: int, start: int) -> Table:
    """No encoder: one of V tokens begins every sequence."""
    return {"prior.prefix.tasks.generation": Made(("tok_emb.weight",), one(start), shapes=((V, d),))}


def after_codes(V: int, d: int, T: int, K: int, P: int) -> Table:
    """Encoder `codes` of P codes of K, which are the first of V tokens. The last of its positions is the prior's.

    The published table is one for the codes of conditions and pictures; here each has a copy, which learn apart.
    """
    return {
        "prior.encoder.embedding.weight": tokens(V, d, K),
        "prior.encoder.positions": Made(("pos_emb",), _all_but_last(P), shapes=((1, T, d),)),
    }


def _all_but_last(count: int) -> Layout:
    """The first `count` positions of [1, T, d], of which the last is 0."""

    def make(places: np.ndarray) -> np.ndarray:
        last = np.zeros_like(places[:, :1])
        return np.concatenate([places[:, : count - 1], last], 1)

    return one_way(make, lambda shape: (1, count, shape[2]))
