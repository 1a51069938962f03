"""Published ViT weights for encoder `vit`: Google's .npz files, and safetensors files with timm's names."""

from __future__ import annotations

import re
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cynosure.core.resize import zoom_positions
from cynosure.errors import CheckpointError
from cynosure.train.checkpoint import differences, read_tensors, shapes_of
from cynosure_plugins.importers.arrays import SAME
from cynosure_plugins.importers.flax_vit import (
    ANY,
    Shapes,
    layer_shapes,
    made,
    modern,
    patches,
    transformer,
    transformer_shapes,
)
from cynosure_plugins.importers.npz import Npz

if TYPE_CHECKING:
    from cynosure_plugins.encoders.vit import ViTEncoder

State = dict[str, torch.Tensor]
POSITIONS = "positions"
TIMM = {
    r"^pos_embed$": POSITIONS,
    r"^patch_embed\.proj\.": "image_stem.",
    r"^norm\.": "transformer.norm.",
    r"^blocks\.": "transformer.blocks.",
    r"\.attn\.proj\.": ".attention.out.",
    r"\.attn\.": ".attention.",
    r"\.mlp\.fc1\.": ".mlp.0.",
    r"\.mlp\.fc2\.": ".mlp.2.",
}
"""timm's names, as patterns, and ours."""
HEADS = r"(cls|cls_token|head|head_dist|fc_norm|pre_logits)([/.].*)?"
"""Names of the class token and of what reads it; an encoder has neither."""


def read_weights(path: Path, encoder: ViTEncoder) -> State:
    """The tensors that a published ViT has for an encoder, its positions moved to the encoder's grid of patches.

    Positions move linearly with their corners in place, as UViM moves them; the class token and the classifier are left
    out. Raises CheckpointError for a file that cannot be read, or is of a ViT of another size.
    """
    state = _read_timm(path, encoder) if path.suffix == ".safetensors" else _read_flax(path, encoder)
    return {**state, POSITIONS: move_positions(state[POSITIONS], encoder.grid, path)}


def move_positions(table: torch.Tensor, grid: tuple[int, int], path: Path) -> torch.Tensor:
    """A position table [1, N, d] of a square picture, perhaps with a class token in front -> [1, H * W, d]."""
    side = isqrt(table.shape[1])
    if table.shape[1] - side * side not in (0, 1):
        raise CheckpointError(f"encoder vit: {path} has {table.shape[1]} positions, which are no square picture.")
    square = table[:, table.shape[1] - side * side :].unflatten(1, (side, side))
    return zoom_positions(square.float(), grid).flatten(1, 2)


def _read_timm(path: Path, encoder: ViTEncoder) -> State:
    tensors, _ = read_tensors(path)
    state = {_ours(name): tensor for name, tensor in tensors.items() if not re.fullmatch(HEADS, name)}
    wanted: Shapes = {**shapes_of(encoder.state_dict()), POSITIONS: (1, ANY, encoder.dim)}
    _require(wanted, shapes_of(state), path)
    return state


def _ours(name: str) -> str:
    for pattern, ours in TIMM.items():
        name = re.sub(pattern, ours, name)
    return name


def _read_flax(path: Path, encoder: ViTEncoder) -> State:
    archive, config = Npz(path, _flax_name), encoder.config
    d, p = config.dim, config.patch
    wanted: Shapes = {
        **layer_shapes("embedding", (p, p, 3, d), (d,)),
        f"params/{POSITIONS}": (1, ANY, d),
        **transformer_shapes("Transformer", config.depth, d, config.heads, config.mlp_dim),
    }
    _require(wanted, archive.shapes, path)
    table = {
        **patches("image_stem", "embedding"),
        POSITIONS: made(SAME, POSITIONS),
        **transformer("transformer", "Transformer", config.depth),
    }
    return {name: lazy.make() for name, lazy in archive.tensors(table).items()}


def _flax_name(name: str) -> str:
    name = modern(name)
    if re.fullmatch(HEADS, name.removeprefix("params/")):
        return ""
    return re.sub(r"^params/(Transformer/)?(posembed_input/)?pos_embedding$", f"params/{POSITIONS}", name)


def _require(wanted: Shapes, given: Shapes, path: Path) -> None:
    if found := differences(wanted, given):
        raise CheckpointError(f"encoder vit: {path} is of another ViT: {'; '.join(found)}. Change the encoder's sizes.")
