"""The sizes of a UViM checkpoint, read off its arrays, and the shape that every array must have then.

The released files are `Stage1()` with the channels of their task, and `Stage2()`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt

from cynosure_plugins.importers.arrays import Shape
from cynosure_plugins.importers.flax_vit import (
    ANY,
    Shapes,
    Table,
    layer_shapes,
    mlp_shapes,
    norm_shapes,
    per_head,
    transformer_shapes,
)
from cynosure_plugins.importers.uvim_names import LABEL_CHANNELS, stage1, stage2


@dataclass(frozen=True)
class Stage1:
    """Oracle and base; `channels` of every label in the order of `LABEL_CHANNELS`, `tokens` of a picture."""

    task: str
    channels: Mapping[str, int] = field(default_factory=dict)
    patch: int = 16
    tokens: int = 1024
    dim: int = 768
    heads: int = 12
    mlp_dim: int = 3072
    oracle_depth: int = 6
    base_depth: int = 12
    vocab_size: int = 4096
    code_dim: int = 768

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> Stage1 | None:
        """The sizes that the arrays of a file tell; None when no array tells the task."""
        labels = {task: [_label(name) for name in names] for task, names in LABEL_CHANNELS.items()}
        task = next((task for task, names in labels.items() if any(name in shapes for name in names)), None)
        if task is None:
            return None
        block = "params/encoder/encoderblock_0"
        return cls(
            task=task,
            channels={name: _axis(shapes, _label(name), 0, 3) for name in LABEL_CHANNELS[task]},
            patch=_axis(shapes, "params/ctx_enc_embedding/kernel", 0, 4),
            tokens=_axis(shapes, "params/pos_embedding_encoder", 1, 3),
            dim=_axis(shapes, "params/pos_embedding_encoder", 2, 3),
            heads=_axis(shapes, f"{block}/MultiHeadDotProductAttention_0/query/kernel", 1, 3),
            mlp_dim=_axis(shapes, f"{block}/MlpBlock_0/Dense_0/kernel", 1, 2),
            oracle_depth=_count(shapes, "params/encoder/encoderblock_"),
            base_depth=_count(shapes, "params/decoder/encoderblock_"),
            vocab_size=_axis(shapes, "state/dictionary", 0, 2),
            code_dim=_axis(shapes, "state/dictionary", 1, 2),
        )

    def table(self) -> Table:
        return stage1(self.task, self.task, self.oracle_depth, self.base_depth)

    def shapes(self) -> Shapes:
        """Name -> shape of every array."""
        d, p, pixels = self.dim, self.patch, _square(self.patch)
        found: Shapes = {
            "state/dictionary": (self.vocab_size, self.code_dim),
            "state/counts": (self.vocab_size,),
            **layer_shapes("encoder_head", (d, self.code_dim), (self.code_dim,)),
            **layer_shapes("decoder_stem", (self.code_dim, d), (d,)),
        }
        for half, context, depth in (
            ("encoder", "ctx_enc", self.oracle_depth),
            ("decoder", "ctx_dec", self.base_depth),
        ):
            found |= layer_shapes(f"{context}_embedding", (p, p, 3, d), (d,))
            found[f"params/pos_embedding_{half}"] = (1, self.tokens, d)
            found |= transformer_shapes(half, depth, d, self.heads, self.mlp_dim)
        for name, count in self.channels.items():
            found |= layer_shapes(f"embedding_{name}", (count, pixels, d), (d,))
            found |= layer_shapes(f"head_{name}", (d, count, pixels), (count, pixels))
        return found


@dataclass(frozen=True)
class Stage2:
    """The language model: `length` codes out of `vocab_size` - 1, since token 0 only starts a sequence."""

    patch: int = 16
    tokens: int = 1024
    dim: int = 1024
    heads: int = 16
    mlp_dim: int = 4096
    encoder_depth: int = 24
    decoder_depth: int = 24
    length: int = 256
    vocab_size: int = 4097

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> Stage2:
        """The sizes that the arrays of a file tell."""
        block = "params/encoder/encoderblock_0"
        return cls(
            patch=_axis(shapes, "params/EmbedPatches/kernel", 0, 4),
            tokens=_axis(shapes, "params/pos_embedding_encoder", 1, 3),
            dim=_axis(shapes, "params/pos_embedding_encoder", 2, 3),
            heads=_axis(shapes, f"{block}/MultiHeadDotProductAttention_0/query/kernel", 1, 3),
            mlp_dim=_axis(shapes, f"{block}/MlpBlock_0/Dense_0/kernel", 1, 2),
            encoder_depth=_count(shapes, "params/encoder/encoderblock_"),
            decoder_depth=_count(shapes, "params/decoder/EncDecBlock"),
            length=_axis(shapes, "params/pos_embedding_decoder", 1, 3),
            vocab_size=_axis(shapes, "params/decoder/EmbedTargets/embedding", 0, 2),
        )

    def table(self) -> Table:
        return stage2(self.encoder_depth, self.decoder_depth)

    def shapes(self) -> Shapes:
        """Name -> shape of every array."""
        d, p = self.dim, self.patch
        found: Shapes = {
            **layer_shapes("EmbedPatches", (p, p, 3, d), (d,)),
            "params/pos_embedding_encoder": (1, self.tokens, d),
            "params/pos_embedding_decoder": (1, self.length, d),
            "params/decoder/EmbedTargets/embedding": (self.vocab_size, d),
            **norm_shapes("decoder/LayerNorm", d),
            **layer_shapes("decoder/LogitsDense", (d, self.vocab_size), (self.vocab_size,)),
            **transformer_shapes("encoder", self.encoder_depth, d, self.heads, self.mlp_dim),
        }
        hidden = (self.heads, per_head(d, self.heads))
        for i in range(self.decoder_depth):
            block = f"decoder/EncDecBlock{i}"
            for attention in ("SelfAttn", "CrossAttn"):
                names = [f"params/{block}/{attention}/{part}/kernel" for part in ("query", "key", "value", "out")]
                found |= dict.fromkeys(names[:3], (d, *hidden)) | {names[3]: (*hidden, d)}
            for norm in (1, 2, 3):
                found |= norm_shapes(f"{block}/LayerNorm{norm}", d)
            found |= mlp_shapes(f"{block}/MLP", d, self.mlp_dim)
        return found


def side(tokens: int) -> int:
    """Rows, and columns, of a square of tokens; 0 when they make none."""
    root = isqrt(max(tokens, 0))
    return root if root * root == tokens else 0


def _label(channel: str) -> str:
    return f"params/embedding_{channel}/kernel"


def _axis(shapes: Mapping[str, Shape], name: str, axis: int, rank: int) -> int:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) == rank else ANY


def _count(shapes: Mapping[str, Shape], prefix: str) -> int:
    """How many numbered blocks there are."""
    return len({found[1] for name in shapes if (found := re.match(re.escape(prefix) + r"(\d+)/", name))})


def _square(patch: int) -> int:
    return patch * patch if patch > 0 else ANY
