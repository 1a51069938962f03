"""Which arrays of a MaskGIT tokenizer checkpoint every tensor of ours is made of; pure data.

Names are those of the released Flax trees, joined by slashes; ours are those of `GuidedModel.state_dict()`. `task` is
the recipe's key of the task.
"""

from __future__ import annotations

import numpy as np
import torch

from cynosure_plugins.convnets.maskgit import MaskGITConfig
from cynosure_plugins.importers.arrays import CONV, SAME, Made, constant
from cynosure_plugins.importers.flax_vit import Table, layer, made, norm


def tokenizer(task: str, config: MaskGITConfig) -> Table:
    """Encoder."""
    ours, widths, n = "tokenizer.encoder", config.widths, config.blocks
    table: Table = {f"{ours}.conv_in.{task}.weight": made(CONV, "encoder/Conv_0/kernel")}
    for i, (inputs, outputs) in enumerate(zip((config.channels, *widths), widths, strict=False)):
        table |= _blocks(f"{ours}.levels.{i}", "encoder", i * n, n, inputs != outputs)
    table |= _blocks(f"{ours}.mid", "encoder", len(widths) * n, n)
    return {
        **table,
        **norm(f"{ours}.norm_out", "encoder/GroupNorm_0"),
        **layer(f"{ours}.conv_out", "encoder/Conv_1", CONV),
    }


def vector_quantizer(vocab_size: int) -> Table:
    """Quantizer `vq` with `update: gradient`; every codeword counts as used once."""
    return {
        "tokenizer.quantizer.weight": made(SAME, "quantizer/codebook"),
        "tokenizer.quantizer.counts": Made((), constant(np.ones(vocab_size, np.float32))),
        "tokenizer.quantizer.step": Made((), constant(np.zeros((), np.int64)), torch.int64),
    }


def base(task: str, config: MaskGITConfig) -> Table:
    """Decoder."""
    ours, widths, n = "base.decoder", config.widths[::-1], config.blocks
    table = layer(f"{ours}.conv_in", "decoder/Conv_0", CONV) | _blocks(f"{ours}.mid", "decoder", 0, n)
    for i, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
        table |= _blocks(f"{ours}.levels.{i}", "decoder", (i + 1) * n, n, inputs != outputs)
        if i < len(widths) - 1:
            table |= layer(f"{ours}.levels.{i}.{n}.conv", f"decoder/Conv_{i + 1}", CONV)
    return {
        **table,
        **norm(f"{ours}.norm_out", "decoder/GroupNorm_0"),
        **layer(f"{ours}.conv_out.{task}", f"decoder/Conv_{len(widths)}", CONV),
    }


def _blocks(ours: str, network: str, first: int, count: int, shortcut: bool = False) -> Table:
    """Residual blocks, which are numbered through a network; a shortcut is in the first."""
    table: Table = {}
    for i in range(count):
        name, theirs = f"{ours}.{i}", f"{network}/ResBlock_{first + i}"
        table |= norm(f"{name}.norm1", f"{theirs}/GroupNorm_0") | norm(f"{name}.norm2", f"{theirs}/GroupNorm_1")
        table[f"{name}.conv1.weight"] = made(CONV, f"{theirs}/Conv_0/kernel")
        table[f"{name}.conv2.weight"] = made(CONV, f"{theirs}/Conv_1/kernel")
        if shortcut and i == 0:
            table[f"{name}.shortcut.weight"] = made(CONV, f"{theirs}/Conv_2/kernel")
    return table
