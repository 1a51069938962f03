"""The sizes of VQGAN's networks, read off the arrays of a checkpoint, and the parts of a recipe that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cynosure.errors import CheckpointError
from cynosure_plugins.convnets.layers import PUBLISHED_GROUPS
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers.archive import Archive
from cynosure_plugins.importers.configs import Settings
from cynosure_plugins.importers.recipes import TASK, model_of

TELLING = ("encoder.conv_in", "encoder.down.0.block.0.conv1", "encoder.conv_out", "decoder.conv_in", "quant_conv")
"""Layers whose weights tell the sizes of all others."""
PICTURE = 256
"""Pixels on the side of the pictures that nearly all released models were trained on."""


def read_config(archive: Archive, what: str, rgb: bool = True) -> VQGANConfig:
    """Sizes of encoder and decoder, of pictures in colour unless `rgb` is false. Raises CheckpointError where they are
    missing, or none that tokenizer vqgan has."""
    archive.require([f"{name}.weight" for name in TELLING], what)
    shapes = {name: archive.shapes[f"{name}.weight"] for name in TELLING}
    archive.refuse((f"{name} is {list(s)}" for name, s in shapes.items() if len(s) != 4), what)
    channels, pictures = shapes["encoder.conv_in"][:2]
    written, read = shapes["encoder.conv_out"][0], shapes["decoder.conv_in"][1]
    levels = range(archive.count("encoder.down."))
    first = [archive.shapes.get(f"encoder.down.{i}.block.0.conv1.weight", (0,))[0] for i in levels]
    problems = {
        f"it reads pictures of {pictures} channels, and generation makes RGB": rgb and pictures != 3,
        "its encoder writes means and variances (double_z), which no quantizer here reads": written == 2 * read,
        f"its widths {first} are no multiples of {channels}": any(width % channels for width in first),
    }
    archive.refuse((text for text, wrong in problems.items() if wrong), what)
    try:
        return VQGANConfig(
            channels=channels,
            multipliers=tuple(width // channels for width in first),
            blocks=archive.count("encoder.down.0.block."),
            attention=tuple(i for i in levels if f"encoder.down.{i}.attn.0.norm.weight" in archive.shapes),
            z_channels=written,
            groups=PUBLISHED_GROUPS,
        )
    except ValidationError as error:
        named = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CheckpointError(
            f"{archive.path} is no {what} of sizes that tokenizer vqgan can have: {named}."
        ) from error


def image_side(config: VQGANConfig, settings: Settings | None, key: str) -> int:
    """Pixels of a picture's side, from the `ddconfig` under `key`. Raises CheckpointError where that describes another
    network."""
    if settings is None or settings.get(key) is None:
        return PICTURE
    side = settings.number(f"{key}.resolution")
    places = settings.get(f"{key}.attn_resolutions", [])
    attended = [i for i in range(len(config.multipliers)) if side >> i in places]
    told = {
        "ch": (settings.get(f"{key}.ch"), config.channels),
        "ch_mult": (settings.get(f"{key}.ch_mult"), list(config.multipliers)),
        "num_res_blocks": (settings.get(f"{key}.num_res_blocks"), config.blocks),
        "z_channels": (settings.get(f"{key}.z_channels"), config.z_channels),
        "levels of attn_resolutions": (attended, list(config.attention)),
    }
    if wrong := [f"{name} {said}, the checkpoint has {has}" for name, (said, has) in told.items() if said != has]:
        raise CheckpointError(f"{settings.path} is of another model: it says {'; '.join(wrong)}.")
    return side


def codes_of(quantizer: Mapping[str, Any]) -> int:
    """K, of what a prior reads and writes."""
    return len(quantizer.get("used", ())) or int(quantizer["vocab_size"])


def recipe(
    config: VQGANConfig,
    side: int,
    quantizer: dict[str, Any],
    loss: dict[str, float],
    fold: int = 1,
    task: str = TASK,
) -> dict[str, Any]:
    """Tokenizer and base `vqgan` of these sizes."""
    sizes = config.model_dump(mode="json") | {"fold": fold}
    return model_of(side, loss, {"name": "vqgan", **sizes, "quantizer": quantizer}, {"name": "vqgan", **sizes}, task)
