"""Which arrays of an RQ-Transformer checkpoint every tensor of ours is made of, its sizes, and the prior that it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cynosure_plugins.importers import rq_transformer_text as text
from cynosure_plugins.importers.archive import Archive, Table
from cynosure_plugins.importers.arrays import SAME, Made, Shape, one, one_way
from cynosure_plugins.importers.configs import Settings
from cynosure_plugins.importers.gpt_names import blocks, same
from cynosure_plugins.importers.recipes import TASK

TELLING = {"pos_emb_hw": 3, "pos_emb_d": 3, "pos_emb_cond": 3, "cond_emb.weight": 2, "classifier.linear.bias": 0}
TELLING |= {"body_transformer.blocks.0.mlp.0.weight": 2}
"""Arrays that tell the sizes of all others, and their axes; 0: any number."""


@dataclass(frozen=True)
class Sizes:
    """d width, L positions, D depth, K vocabulary; `classes` 1 is an unconditional model.

    One that reads texts has `tokens` of each, more than 1, and its vocabulary has `classes` of them.
    """

    dim: int
    body: int
    head: int
    heads: int
    hidden: int
    L: int
    D: int
    K: int
    classes: int
    code_dim: int
    embedding: str = "codebook"
    classifiers: str = "shared"
    cumulative: bool = True
    tokens: int = 1

    @classmethod
    def of(cls, archive: Archive, settings: Settings, what: str) -> Sizes:
        """What arrays and configuration tell. Raises CheckpointError where prior rq_transformer cannot be that."""
        archive.require(TELLING, what)
        shapes = archive.shapes
        archive.refuse(
            (f"{name} is {list(shapes[name])}" for name, axes in TELLING.items() if axes not in (0, len(shapes[name]))),
            what,
        )
        L, dim, D = shapes["pos_emb_hw"][1], shapes["pos_emb_hw"][2], shapes["pos_emb_d"][1]
        K, classes = shapes["classifier.linear.bias"][-1], shapes["cond_emb.weight"][0]
        heads = settings.number("arch.body.block.n_head")
        archive.refuse(_unlike_ours(archive, settings, L, D, dim, heads), what)
        table = shapes.get("tok_emb.weight", (0,))[0]
        return cls(
            dim,
            archive.count("body_transformer.blocks."),
            archive.count("head_transformer.blocks."),
            heads,
            shapes["body_transformer.blocks.0.mlp.0.weight"][0],
            *(L, D, K, classes),
            code_dim=shapes.get("input_mlp.weight", (0, 0))[-1],
            embedding="codebook" if not table else "shared" if table == K else "separate",
            classifiers="shared" if len(shapes["classifier.linear.bias"]) == 1 else "separate",
            cumulative=bool(settings.get("arch.cumsum_depth_ctx", True)),
            tokens=shapes["pos_emb_cond"][1],
        )


def _unlike_ours(archive: Archive, settings: Settings, L: int, D: int, dim: int, heads: int) -> Iterator[str]:
    """What keeps a checkpoint from being prior rq_transformer, and a configuration from being its own."""
    shapes = archive.shapes
    if (tokens := shapes["pos_emb_cond"][1]) > 1:
        yield from text.unlike_ours(settings, shapes["cond_emb.weight"][0], tokens)
    if ("input_mlp.weight" in shapes) != ("head_mlp.weight" in shapes):
        yield "of body and head one reads codewords, the other a table of its own (input_emb_vqvae, head_emb_vqvae)"
    if any(settings.get(f"arch.{part}.block.gelu", "v1") != "v1" for part in ("body", "head")):
        yield "its activation is GELU v2, x * sigmoid(1.702 x), and the prior's blocks have the exact one"
    if (found := settings.get("arch.head.block.n_head", heads)) != heads:
        yield f"its head has {found} attention heads, its body {heads}"
    if dim % heads:
        yield f"width {dim} does not divide into {heads} heads"
    told = settings.get("arch.block_size")
    if told is not None and (not isinstance(told, list) or len(told) != 3 or [told[0] * told[1], told[2]] != [L, D]):
        yield f"{settings.path} says codes {told}, the arrays {L} positions of depth {D}"
    if (told := settings.get("arch.embed_dim", dim)) != dim:
        yield f"{settings.path} says width {told}, the arrays {dim}"


def prior(sizes: Sizes, settings: Settings) -> dict[str, Any]:
    """The prior's part of a recipe."""
    loss = settings.get("loss.type") == "soft_target_cross_entropy"
    found: dict[str, Any] = {
        **{"name": "rq_transformer", "dim": sizes.dim, "depth": sizes.body, "head_depth": sizes.head},
        **{"heads": sizes.heads, "mlp_dim": sizes.hidden, "cumulative": sizes.cumulative},
        **{"embedding": sizes.embedding, "classifiers": sizes.classifiers, "task_tokens": sizes.classes == 1},
        "dropout": settings.get("arch.body.block.resid_pdrop", 0.1),
        "soft_temperature": settings.get("loss.temp", 0.5) if loss else None,
        "stochastic": bool(settings.get("loss.stochastic_codes", True)),
    }
    if sizes.tokens > 1:
        found |= text.options(settings, sizes.classes, sizes.tokens, sizes.dim)
    elif sizes.classes > 1:
        found["encoder"] = {"name": "label", "classes": sizes.classes, "dim": sizes.dim}
    return found


def transformer(sizes: Sizes) -> Table:
    """The whole prior."""
    d, K, D = sizes.dim, sizes.K, sizes.D
    table: Table = {
        "prior.positions": Made(("pos_emb_hw",), SAME, shapes=((1, sizes.L, d),)),
        "prior.depths": Made(("pos_emb_d",), SAME, shapes=((1, D, d),)),
        **blocks("prior.body", "body_transformer.blocks", sizes.body, d, sizes.hidden),
        **blocks("prior.head", "head_transformer.blocks", sizes.head, d, sizes.hidden),
        **same("prior.norm", "classifier.layer_norm", (d,), (d,)),
    }
    if sizes.embedding == "codebook":
        for ours, theirs in (("body_input", "input_mlp"), ("head_input", "head_mlp")):
            table |= same(f"prior.{ours}", theirs, (d, sizes.code_dim), (d,))
    else:
        rows = K * (D if sizes.embedding == "separate" else 1)
        table |= same("prior.embedding", "tok_emb", (rows, d))
    if sizes.classifiers == "shared":
        table |= same("prior.classifiers.0", "classifier.linear", (K, d), (K,))
    else:
        for i in range(D):
            table |= _classifier(i, d, K, D)
    if sizes.tokens > 1:
        return table | text.tensors(sizes.classes, sizes.tokens, d)
    condition = "prior.encoder.embedding.weight" if sizes.classes > 1 else f"prior.prefix.tasks.{TASK}"
    return table | {condition: _condition(sizes.classes, d)}


def _classifier(i: int, d: int, K: int, D: int) -> Table:
    """The one of depth i, of those that the file stacks, [D, d, K] and [D, K]."""
    turned = one_way(lambda stack: stack[i].T, lambda shape: (shape[2], shape[1]))
    return {
        f"prior.classifiers.{i}.weight": Made(("classifier.linear.weight",), turned, shapes=((D, d, K),)),
        f"prior.classifiers.{i}.bias": Made(("classifier.linear.bias",), one(i), shapes=((D, K),)),
    }


def _condition(classes: int, d: int) -> Made:
    """Vectors of classes with the one position that they have; of an unconditional model that of its only token."""

    def shape(table: Shape, place: Shape) -> Shape:
        return table if classes > 1 else table[1:]

    layout = one_way(lambda table, place: (table + place[0]).reshape(shape(table.shape, place.shape)), shape)
    return Made(("cond_emb.weight", "pos_emb_cond"), layout, shapes=((classes, d), (1, 1, d)))
