"""Which arrays of a UViM checkpoint (big_vision) every tensor of ours is made of; pure data.

Stage I holds oracle and base, stage II the language model. Names are those of the released files, `params/...` and
`state/...`; ours are those of `GuidedModel.state_dict()`. Sizes follow from the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from cynosure_plugins.importers.arrays import FLAT, LABELS, LINEAR, MERGE, SAME, SUM, Made, constant
from cynosure_plugins.importers.flax_vit import Table, layer, made, mlp, norm, patches, transformer

LABEL_CHANNELS = {"panoptic": ("semantics", "instances"), "depth": ("depth",), "colorization": ("color",)}
"""Our task -> UViM's names of its label channels, in the order of our channels."""


def stage1(task: str, key: str, oracle_depth: int, base_depth: int) -> Table:
    """Tokenizer and base for one of the tasks of `LABEL_CHANNELS`; `key` is its name in the recipe."""
    channels = LABEL_CHANNELS[task]
    return {
        f"tokenizer.stems.{key}.weight": made(LABELS, *[f"embedding_{c}/kernel" for c in channels]),
        f"tokenizer.stems.{key}.bias": made(SUM, *[f"embedding_{c}/bias" for c in channels]),
        **patches("tokenizer.context", "ctx_enc_embedding"),
        "tokenizer.positions": made(SAME, "pos_embedding_encoder"),
        **transformer("tokenizer.transformer", "encoder", oracle_depth),
        **layer("tokenizer.head", "encoder_head", LINEAR),
        "tokenizer.quantizer.sums": Made(("state/dictionary",), SAME),
        "tokenizer.quantizer.counts": Made(("state/counts",), SAME),
        "tokenizer.quantizer.step": Made((), constant(np.zeros((), np.int64)), torch.int64),
        **layer("base.code_stem", "decoder_stem", LINEAR),
        **patches("base.image_stem", "ctx_dec_embedding"),
        "base.positions": made(SAME, "pos_embedding_decoder"),
        **transformer("base.transformer", "decoder", base_depth),
        f"base.heads.{key}.weight": made(LINEAR, *[f"head_{c}/kernel" for c in channels]),
        f"base.heads.{key}.bias": made(FLAT, *[f"head_{c}/bias" for c in channels]),
    }


def stage2(encoder_depth: int, decoder_depth: int) -> Table:
    """The prior (with `start_code: true`, `task_tokens: false`) and its encoder `vit`."""
    table = {
        **patches("prior.encoder.image_stem", "EmbedPatches"),
        "prior.encoder.positions": made(SAME, "pos_embedding_encoder"),
        **transformer("prior.encoder.transformer", "encoder", encoder_depth),
        "prior.embedding.weight": made(SAME, "decoder/EmbedTargets/embedding"),
        "prior.positions": made(SAME, "pos_embedding_decoder"),
        **norm("prior.norm", "decoder/LayerNorm"),
        **layer("prior.head", "decoder/LogitsDense", LINEAR),
    }
    for i in range(decoder_depth):
        table |= _decoder_block(f"prior.blocks.{i}", f"decoder/EncDecBlock{i}")
    return table


def assemble(table: Mapping[str, Made], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All tensors of a table at once, for small models."""
    return {name: made.make(arrays) for name, made in table.items()}


def _decoder_block(ours: str, theirs: str) -> Table:
    """Attention without biases."""
    own, cross = f"{theirs}/SelfAttn", f"{theirs}/CrossAttn"
    return {
        **norm(f"{ours}.norm1", f"{theirs}/LayerNorm1"),
        f"{ours}.attention.qkv.weight": made(LINEAR, *[f"{own}/{p}/kernel" for p in ("query", "key", "value")]),
        f"{ours}.attention.out.weight": made(MERGE, f"{own}/out/kernel"),
        **norm(f"{ours}.norm2", f"{theirs}/LayerNorm2"),
        f"{ours}.cross.q.weight": made(LINEAR, f"{cross}/query/kernel"),
        f"{ours}.cross.kv.weight": made(LINEAR, *[f"{cross}/{p}/kernel" for p in ("key", "value")]),
        f"{ours}.cross.out.weight": made(MERGE, f"{cross}/out/kernel"),
        **norm(f"{ours}.norm3", f"{theirs}/LayerNorm3"),
        **mlp(f"{ours}.mlp", f"{theirs}/MLP"),
    }
