"""Which arrays of a VQGAN or RQ-VAE checkpoint every tensor of ours is made of; pure data.

Names are those of the released state dicts (taming-transformers, rq-vae-transformer), which share their networks; ours
are those of `GuidedModel.state_dict()`. `task` is the recipe's key of the task. Shapes: K vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers.arrays import FLAT, POINTWISE, SAME, Layout, Made, Shape, constant

Table = dict[str, Made]
EPSILON = 1e-5
"""Laplace smoothing of RQ-VAE's counts."""


def tokenizer(task: str, config: VQGANConfig) -> Table:
    """Encoder and `quant_conv`."""
    ours = "tokenizer.encoder"
    table = _layer(f"{ours}.conv_in.{task}", "encoder.conv_in")
    widths = config.widths
    for i, (inputs, outputs) in enumerate(zip((config.channels, *widths), widths, strict=False)):
        level = f"encoder.down.{i}"
        table |= _level("tokenizer", level, inputs, outputs, config.blocks, i in config.attention)
        if i < len(widths) - 1:
            table |= _same("tokenizer", f"{level}.downsample.conv")
    table |= _middle("tokenizer", "encoder")
    return table | _same("tokenizer", "encoder.conv_out") | _pointwise("tokenizer.quant_conv", "quant_conv")


def base(task: str, config: VQGANConfig) -> Table:
    """`post_quant_conv` and decoder."""
    table = _pointwise("base.post_quant_conv", "post_quant_conv") | _same("base", "decoder.conv_in")
    widths = config.widths
    for i, (outputs, inputs) in enumerate(zip(widths, (*widths[1:], widths[-1]), strict=True)):
        level = f"decoder.up.{i}"
        table |= _level("base", level, inputs, outputs, config.blocks + 1, i in config.attention)
        if i > 0:
            table |= _same("base", f"{level}.upsample.conv")
    return table | _middle("base", "decoder") | _layer(f"base.decoder.conv_out.{task}", "decoder.conv_out")


def vector_quantizer(vocab_size: int) -> Table:
    """Quantizer `vq` with `update: gradient`; every codeword counts as used once."""
    return {
        "tokenizer.quantizer.weight": Made(("quantize.embedding.weight",), SAME),
        "tokenizer.quantizer.counts": Made((), constant(np.ones(vocab_size, np.float32))),
        "tokenizer.quantizer.step": _no_steps(),
    }


def gumbel_quantizer() -> Table:
    return {
        **_pointwise("tokenizer.quantizer.project", "quantize.proj"),
        "tokenizer.quantizer.codebook.weight": Made(("quantize.embed.weight",), SAME),
        "tokenizer.quantizer.step": _no_steps(),
    }


def residual_quantizer(codebooks: int, decay: float) -> Table:
    """Quantizer `rq` with `update: ema`; 1 codebook is a shared one, of which files hold a copy a depth."""
    table = {}
    for i in range(codebooks):
        ours, theirs = f"tokenizer.quantizer.codebooks.{i}", f"quantizer.codebooks.{i}"
        counts = f"{theirs}.cluster_size_ema"
        table[f"{ours}.sums"] = Made((f"{theirs}.weight", counts), _sums(decay))
        table[f"{ours}.counts"] = Made((counts,), _totals(decay))
        table[f"{ours}.step"] = _no_steps()
    return table


def _totals(decay: float) -> Layout:
    """Averages -> discounted totals."""
    return Layout(
        lambda average: average / np.float32(1 - decay),
        lambda shape: shape,
        lambda gradient, shapes: [gradient / np.float32(1 - decay)],
    )


def _sums(decay: float) -> Layout:
    """Codewords [K + 1, d], whose last row is padding, and average counts [K] -> the totals that they are quotients of.

    From the codewords rather than from their averages, because models are used with the former.
    """

    def divisors(counts: np.ndarray) -> np.ndarray:
        total = counts.sum(dtype=np.float32)
        return (counts + EPSILON) / (total + len(counts) * EPSILON) * total / (1 - decay)

    def make(weight: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return (weight[:-1] * divisors(counts)[:, None]).astype(np.float32)

    def split(gradient: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        raise NotImplementedError("codewords of RQ-VAE learn without gradients")

    return Layout(make, lambda weight, counts: (counts[0], weight[1]), split)


def _no_steps() -> Made:
    return Made((), constant(np.zeros((), np.int64)), torch.int64)


def _layer(ours: str, theirs: str) -> Table:
    return {f"{ours}.{part}": Made((f"{theirs}.{part}",), SAME) for part in ("weight", "bias")}


def _same(part: str, name: str) -> Table:
    return _layer(f"{part}.{name}", name)


def _pointwise(ours: str, *theirs: str) -> Table:
    return {
        f"{ours}.weight": Made(tuple(f"{name}.weight" for name in theirs), POINTWISE),
        f"{ours}.bias": Made(tuple(f"{name}.bias" for name in theirs), FLAT),
    }


def _block(part: str, name: str, shortcut: bool = False) -> Table:
    layers = ["norm1", "conv1", "norm2", "conv2"] + ["nin_shortcut"] * shortcut
    return {ours: made for layer in layers for ours, made in _same(part, f"{name}.{layer}").items()}


def _attention(part: str, name: str) -> Table:
    return {
        **_same(part, f"{name}.norm"),
        **_pointwise(f"{part}.{name}.qkv", *[f"{name}.{projection}" for projection in "qkv"]),
        **_pointwise(f"{part}.{name}.proj_out", f"{name}.proj_out"),
    }


def _level(part: str, name: str, inputs: int, outputs: int, blocks: int, attention: bool) -> Table:
    table: Table = {}
    for i in range(blocks):
        table |= _block(part, f"{name}.block.{i}", shortcut=i == 0 and inputs != outputs)
        if attention:
            table |= _attention(part, f"{name}.attn.{i}")
    return table


def _middle(part: str, network: str) -> Table:
    """The middle and the norm before the last convolution."""
    return {
        **_block(part, f"{network}.mid.block_1"),
        **_attention(part, f"{network}.mid.attn_1"),
        **_block(part, f"{network}.mid.block_2"),
        **_same(part, f"{network}.norm_out"),
    }
