"""Which arrays of a minGPT checkpoint the blocks of a prior are made of; taming-transformers and RQ-Transformer have
the same. Shapes: d width, K vocabulary, T tokens of the published sequence, L code positions, P condition tokens."""

from __future__ import annotations

from cynosure_plugins.importers.archive import Table
from cynosure_plugins.importers.arrays import FLAT, LINEAR_ROWS, SAME, Made, Shape, one, part


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


def gpt(depth: int, d: int, hidden: int, K: int, V: int, T: int, L: int, classes: int, start: int) -> Table:
    """Prior `gpt` after one token: a class of `classes` of the table of V tokens, or the token `start` if that is 0."""
    tokens, places = ("tok_emb.weight",), ("pos_emb",)
    table = {
        "prior.embedding.weight": Made(tokens, part(0, 0, K), shapes=((V, d),)),
        "prior.positions": Made(places, part(1, 0, L), shapes=((1, T, d),)),
        **blocks("prior.blocks", "blocks", depth, d, hidden),
        **same("prior.norm", "ln_f", (d,), (d,)),
        "prior.head.weight": Made(("head.weight",), part(0, 0, K), shapes=((V, d),)),
    }
    if classes:
        table["prior.encoder.embedding.weight"] = Made(tokens, part(0, 0, classes), shapes=((V, d),))
    else:
        table["prior.prefix.tasks.generation"] = Made(tokens, one(start), shapes=((V, d),))
    return table
