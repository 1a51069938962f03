"""Which arrays of MaskGIT's checkpoints every tensor of ours is made of, and the shapes that these have.

Names are those of the released Flax trees, joined by slashes, after `params/`; ours are those of
`GuidedModel.state_dict()`. `task` is the recipe's key of the task. Kernels are [in, out] and [H, W, in, out].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cynosure_plugins.convnets.maskgit import MaskGITConfig
from cynosure_plugins.importers.archive import Table
from cynosure_plugins.importers.arrays import CONV, FLAT, LINEAR, MERGE, SAME, Layout, Made, Shape, constant, part

ANY = -1
RGB = 3


def tokenizer(task: str, config: MaskGITConfig, dim: int = ANY) -> Table:
    """Encoder, to latents of width `dim`."""
    ours, widths, n = "tokenizer.encoder", config.widths, config.blocks
    table = _kernel(f"{ours}.conv_in.{task}", "encoder/Conv_0", RGB, config.channels)
    for i, (inputs, outputs) in enumerate(zip((config.channels, *widths), widths, strict=False)):
        table |= _blocks(f"{ours}.levels.{i}", "encoder", i * n, n, inputs, outputs)
    table |= _blocks(f"{ours}.mid", "encoder", len(widths) * n, n, widths[-1], widths[-1])
    return {
        **table,
        **_norm(f"{ours}.norm_out", "encoder/GroupNorm_0", widths[-1]),
        **_layer(f"{ours}.conv_out", "encoder/Conv_1", CONV, (1, 1, widths[-1], dim), (dim,)),
    }


def vector_quantizer(vocab_size: int, dim: int = ANY) -> Table:
    """Quantizer `vq` with `update: gradient`; every codeword counts as used once."""
    return {
        "tokenizer.quantizer.weight": Made(("quantizer/codebook",), SAME, shapes=((vocab_size, dim),)),
        "tokenizer.quantizer.counts": Made((), constant(np.ones(vocab_size, np.float32))),
        "tokenizer.quantizer.step": Made((), constant(np.zeros((), np.int64)), torch.int64),
    }


def base(task: str, config: MaskGITConfig, dim: int = ANY) -> Table:
    """Decoder, from latents of width `dim`."""
    ours, widths, n = "base.decoder", config.widths[::-1], config.blocks
    table = _conv(f"{ours}.conv_in", "decoder/Conv_0", dim, widths[0])
    table |= _blocks(f"{ours}.mid", "decoder", 0, n, widths[0], widths[0])
    for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
        table |= _blocks(f"{ours}.levels.{i}", "decoder", (i + 1) * n, n, inputs, outputs)
        if i < len(widths) - 1:
            table |= _conv(f"{ours}.levels.{i}.{n}.conv", f"decoder/Conv_{i + 1}", outputs, outputs)
    return {
        **table,
        **_norm(f"{ours}.norm_out", "decoder/GroupNorm_0", widths[-1]),
        **_conv(f"{ours}.conv_out.{task}", f"decoder/Conv_{len(widths)}", widths[-1], RGB),
    }


@dataclass(frozen=True)
class Sizes:
    """d width; `tokens` of the table: codes, classes, mask; `places` of the file, of which the first `length` + 1."""

    dim: int
    depth: int
    heads: int
    hidden: int
    tokens: int
    places: int
    length: int


def transformer(sizes: Sizes) -> Table:
    """Prior `masked` with classes of its own."""
    d, V = sizes.dim, sizes.tokens
    places = part(0, 0, sizes.length + 1)
    table: Table = {
        "prior.table.weight": Made(("Embed_0/word_embeddings/embedding",), SAME, shapes=((V, d),)),
        "prior.positions.weight": Made(("Embed_0/position_embeddings/embedding",), places, shapes=((sizes.places, d),)),
        **_norm("prior.norm", "Embed_0/embeddings_ln", d),
        **_layer("prior.dense", "MlmLayer_0/mlm_dense", LINEAR, (d, d), (d,)),
        **_norm("prior.head_norm", "MlmLayer_0/mlm_ln", d),
        "prior.bias": Made(("MlmLayer_0/mlm_bias/bias",), SAME, shapes=((V,),)),
    }
    for i in range(sizes.depth):
        table |= _transformer_block(f"prior.blocks.{i}", f"TransformerLayer_{i}", sizes)
    return table


def _transformer_block(ours: str, theirs: str, sizes: Sizes) -> Table:
    d, attention = sizes.dim, f"{theirs}/Attention_0/self_attention"
    by_head = (sizes.heads, d // sizes.heads)
    kernels, biases = (
        tuple(f"{attention}/{n}/{kind}" for n in ("query", "key", "value")) for kind in ("kernel", "bias")
    )
    return {
        f"{ours}.attention.qkv.weight": Made(kernels, LINEAR, shapes=((d, *by_head),) * 3),
        f"{ours}.attention.qkv.bias": Made(biases, FLAT, shapes=(by_head,) * 3),
        **_layer(f"{ours}.attention.out", f"{attention}/out", MERGE, (*by_head, d), (d,)),
        **_norm(f"{ours}.norm1", f"{theirs}/Attention_0/attention_output_ln", d),
        **_layer(f"{ours}.mlp.0", f"{theirs}/Mlp_0/intermediate_output", LINEAR, (d, sizes.hidden), (sizes.hidden,)),
        **_layer(f"{ours}.mlp.2", f"{theirs}/Mlp_0/layer_output", LINEAR, (sizes.hidden, d), (d,)),
        **_norm(f"{ours}.norm2", f"{theirs}/Mlp_0/layer_output_ln", d),
    }


def _blocks(ours: str, network: str, first: int, count: int, inputs: int, outputs: int) -> Table:
    """Residual blocks, which are numbered through a network; a shortcut is in the first."""
    table: Table = {}
    for i in range(count):
        name, theirs, read = f"{ours}.{i}", f"{network}/ResBlock_{first + i}", outputs if i else inputs
        table |= _norm(f"{name}.norm1", f"{theirs}/GroupNorm_0", read)
        table |= _norm(f"{name}.norm2", f"{theirs}/GroupNorm_1", outputs)
        table |= _kernel(f"{name}.conv1", f"{theirs}/Conv_0", read, outputs)
        table |= _kernel(f"{name}.conv2", f"{theirs}/Conv_1", outputs, outputs)
        if read != outputs:
            table |= _kernel(f"{name}.shortcut", f"{theirs}/Conv_2", outputs, outputs, side=1)
    return table


def _kernel(ours: str, theirs: str, inputs: int, outputs: int, side: int = 3) -> Table:
    return {f"{ours}.weight": Made((f"{theirs}/kernel",), CONV, shapes=((side, side, inputs, outputs),))}


def _layer(ours: str, theirs: str, layout: Layout, kernel: Shape, bias: Shape) -> Table:
    return {
        f"{ours}.weight": Made((f"{theirs}/kernel",), layout, shapes=(kernel,)),
        f"{ours}.bias": Made((f"{theirs}/bias",), FLAT, shapes=(bias,)),
    }


def _conv(ours: str, theirs: str, inputs: int, outputs: int) -> Table:
    return _layer(ours, theirs, CONV, (3, 3, inputs, outputs), (outputs,))


def _norm(ours: str, theirs: str, width: int) -> Table:
    parts = (("weight", "scale"), ("bias", "bias"))
    return {f"{ours}.{new}": Made((f"{theirs}/{old}",), SAME, shapes=((width,),)) for new, old in parts}
