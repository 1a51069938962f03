"""Which arrays of a VQGAN or RQ-VAE checkpoint every tensor of ours is made of, and the shapes that these have.

Names are those of the released state dicts (taming-transformers, rq-vae-transformer), which share their networks; ours
are those of `GuidedModel.state_dict()`. `task` is the recipe's key of the task. Shapes: K vocabulary, d width.
"""

from __future__ import annotations

import numpy as np
import torch

from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers.archive import Table
from cynosure_plugins.importers.arrays import FLAT, POINTWISE, SAME, Layout, Made, Shape, constant, one_way

ANY = -1
RGB = 3
EPSILON = 1e-5
"""Laplace smoothing of average counts."""


def tokenizer(task: str, config: VQGANConfig, dim: int = ANY, channels: int = RGB) -> Table:
    """Encoder of pictures of some channels and `quant_conv`, to latents of width `dim`."""
    ours, widths, z = "tokenizer.encoder", config.widths, config.z_channels
    table = _conv(f"{ours}.conv_in.{task}", "encoder.conv_in", channels, config.channels)
    for i, (inputs, outputs) in enumerate(zip((config.channels, *widths), widths, strict=False)):
        level = f"encoder.down.{i}"
        table |= _level("tokenizer", level, inputs, outputs, config.blocks, i in config.attention)
        if i < len(widths) - 1:
            table |= _conv(f"tokenizer.{level}.downsample.conv", f"{level}.downsample.conv", outputs, outputs)
    table |= _middle("tokenizer", "encoder", widths[-1]) | _norm("tokenizer", "encoder.norm_out", widths[-1])
    table |= _conv(f"{ours}.conv_out", "encoder.conv_out", widths[-1], z)
    return table | _pointwise("tokenizer.quant_conv", ("quant_conv",), z, dim)


def base(task: str, config: VQGANConfig, dim: int = ANY) -> Table:
    """`post_quant_conv` and decoder, from latents of width `dim`."""
    widths, z = config.widths, config.z_channels
    table = _pointwise("base.post_quant_conv", ("post_quant_conv",), dim, z)
    table |= _conv("base.decoder.conv_in", "decoder.conv_in", z, widths[-1])
    for i, (outputs, inputs) in enumerate(zip(widths, (*widths[1:], widths[-1]), strict=True)):
        level = f"decoder.up.{i}"
        table |= _level("base", level, inputs, outputs, config.blocks + 1, i in config.attention)
        if i > 0:
            table |= _conv(f"base.{level}.upsample.conv", f"{level}.upsample.conv", outputs, outputs)
    table |= _middle("base", "decoder", widths[-1]) | _norm("base", "decoder.norm_out", widths[0])
    return table | _conv(f"base.decoder.conv_out.{task}", "decoder.conv_out", widths[0], RGB)


def vector_quantizer(vocab_size: int, dim: int = ANY) -> Table:
    """Quantizer `vq` with `update: gradient`; every codeword counts as used once."""
    return {
        "tokenizer.quantizer.weight": Made(("quantize.embedding.weight",), SAME, shapes=((vocab_size, dim),)),
        "tokenizer.quantizer.counts": Made((), constant(np.ones(vocab_size, np.float32))),
        "tokenizer.quantizer.step": _no_steps(),
    }


def moving_average_quantizer(vocab_size: int, dim: int, decay: float) -> Table:
    """Quantizer `vq` with `update: ema`. Averages of vectors are a name that is read, and not needed."""
    theirs = "quantize.embedding"
    return _averaged("tokenizer.quantizer", theirs, vocab_size, dim, decay, f"{theirs}.cluster_size", padding=0)


def gumbel_quantizer(vocab_size: int = ANY, dim: int = ANY) -> Table:
    book = Made(("quantize.embed.weight",), SAME, shapes=((vocab_size, dim),))
    return {
        **_pointwise("tokenizer.quantizer.project", ("quantize.proj",), dim, vocab_size),
        "tokenizer.quantizer.codebook.weight": book,
        "tokenizer.quantizer.step": _no_steps(),
    }


def residual_quantizer(codebooks: int, decay: float, vocab_size: int = ANY, dim: int = ANY) -> Table:
    """Quantizer `rq` with `update: ema`; 1 codebook is a shared one, of which files hold a copy a depth."""
    table: Table = {}
    for i in range(codebooks):
        ours, theirs = f"tokenizer.quantizer.codebooks.{i}", f"quantizer.codebooks.{i}"
        table |= _averaged(ours, theirs, vocab_size, dim, decay, f"{theirs}.cluster_size_ema", padding=1)
    return table


def _averaged(ours: str, theirs: str, vocab_size: int, dim: int, decay: float, counts: str, padding: int) -> Table:
    """A codebook that is a moving average: codewords, `padding` rows after them, and average counts."""
    rows = ANY if vocab_size == ANY else vocab_size + padding
    shapes = ((rows, dim), (vocab_size,))
    return {
        f"{ours}.sums": Made((f"{theirs}.weight", counts), _sums(decay, padding), shapes=shapes),
        f"{ours}.counts": Made((counts,), _totals(decay), shapes=shapes[1:]),
        f"{ours}.step": _no_steps(),
    }


def _totals(decay: float) -> Layout:
    """Averages -> discounted totals."""
    return one_way(lambda average: average / np.float32(1 - decay), lambda shape: shape)


def _sums(decay: float, padding: int) -> Layout:
    """Codewords [K + padding, d] and average counts [K] -> the totals that the codewords are quotients of.

    From the codewords rather than from their averages, because models are used with the former.
    """

    def divisors(counts: np.ndarray) -> np.ndarray:
        total = counts.sum(dtype=np.float32)
        return (counts + EPSILON) / (total + len(counts) * EPSILON) * total / (1 - decay)

    def make(weight: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return (weight[: len(weight) - padding] * divisors(counts)[:, None]).astype(np.float32)

    return one_way(make, lambda weight, counts: (counts[0], weight[1]))


def _no_steps() -> Made:
    return Made((), constant(np.zeros((), np.int64)), torch.int64)


def _layer(ours: str, theirs: str, *shapes: Shape) -> Table:
    """A weight and a bias that lie in the file as they do here."""
    parts = zip(("weight", "bias"), shapes, strict=True)
    return {f"{ours}.{part}": Made((f"{theirs}.{part}",), SAME, shapes=(shape,)) for part, shape in parts}


def _conv(ours: str, theirs: str, inputs: int, outputs: int, side: int = 3) -> Table:
    return _layer(ours, theirs, (outputs, inputs, side, side), (outputs,))


def _norm(part: str, name: str, width: int) -> Table:
    return _layer(f"{part}.{name}", name, (width,), (width,))


def _pointwise(ours: str, theirs: tuple[str, ...], inputs: int, outputs: int) -> Table:
    """1 x 1 convolutions, each with `outputs`, as one linear layer."""
    weights, biases = ((outputs, inputs, 1, 1),) * len(theirs), ((outputs,),) * len(theirs)
    return {
        f"{ours}.weight": Made(tuple(f"{name}.weight" for name in theirs), POINTWISE, shapes=weights),
        f"{ours}.bias": Made(tuple(f"{name}.bias" for name in theirs), FLAT, shapes=biases),
    }


def _block(part: str, name: str, inputs: int, outputs: int) -> Table:
    table = {
        **_norm(part, f"{name}.norm1", inputs),
        **_conv(f"{part}.{name}.conv1", f"{name}.conv1", inputs, outputs),
        **_norm(part, f"{name}.norm2", outputs),
        **_conv(f"{part}.{name}.conv2", f"{name}.conv2", outputs, outputs),
    }
    if inputs != outputs:
        table |= _conv(f"{part}.{name}.nin_shortcut", f"{name}.nin_shortcut", inputs, outputs, side=1)
    return table


def _attention(part: str, name: str, width: int) -> Table:
    return {
        **_norm(part, f"{name}.norm", width),
        **_pointwise(f"{part}.{name}.qkv", tuple(f"{name}.{projection}" for projection in "qkv"), width, width),
        **_pointwise(f"{part}.{name}.proj_out", (f"{name}.proj_out",), width, width),
    }


def _level(part: str, name: str, inputs: int, outputs: int, blocks: int, attention: bool) -> Table:
    table: Table = {}
    for i in range(blocks):
        table |= _block(part, f"{name}.block.{i}", outputs if i else inputs, outputs)
        if attention:
            table |= _attention(part, f"{name}.attn.{i}", outputs)
    return table


def _middle(part: str, network: str, width: int) -> Table:
    return {
        **_block(part, f"{network}.mid.block_1", width, width),
        **_attention(part, f"{network}.mid.attn_1", width),
        **_block(part, f"{network}.mid.block_2", width, width),
    }
