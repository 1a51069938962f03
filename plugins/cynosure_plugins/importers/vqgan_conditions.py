"""What the sequence of VQGAN's transformer begins with: a start token, a class, or the codes of a map.

Shapes: V tokens of the table, d width, T positions, K codes of the condition, P how many of them come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cynosure.core.records import LazyTensor
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers import gpt_names, vqgan_names
from cynosure_plugins.importers.archive import Archive, Part, Table
from cynosure_plugins.importers.configs import Settings
from cynosure_plugins.importers.vqgan_sizes import codes_of, image_side, read_config

WHAT, STAGE = "VQGAN of conditions", "cond_stage_model."
DRAWING = r"decoder\.|post_quant_conv\."
"""What only draws conditions."""
COLUMNS = {"depth": "depth", "segmentation": "panoptic"}
"""Kinds of map, and the inputs of task generation that hold them."""
COCO_STUFF = 183
"""Its classes and void, which its files call 255 and the transformer 0."""
IMAGENET = 1000
SAMPLING: Mapping[str, Mapping[str, Any]] = {
    "none": {"temperature": 1.0, "top_k": 250},
    "label": {"temperature": 1.0, "top_k": 600, "top_p": 0.92},
    **{kind: {"temperature": 1.0, "top_k": 100} for kind in COLUMNS},
}
"""How the published samples were drawn, by what they were made from."""


class Sizes(NamedTuple):
    """Of the transformer's table of tokens [V, d] and its positions [1, T, d]."""

    V: int
    d: int
    T: int


@dataclass(frozen=True)
class Condition:
    """What comes before the codes: P, the tensors that the transformer's arrays (`table`) and others make, what the
    recipe says of it, what is wrong with it and what should be told."""

    kind: str
    length: int
    table: Table
    tensors: Mapping[str, LazyTensor] = field(default_factory=dict)
    encoder: Mapping[str, Any] | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()


def kind_of(archive: Archive, settings: Settings) -> str | None:
    """'none', 'label', a kind of map, or None for a condition that there is not here."""
    params = "model.params"
    if settings.get(f"{params}.unconditional") or settings.get(f"{params}.cond_stage_config") == "__is_unconditional__":
        return "none"
    key = settings.get(f"{params}.cond_stage_key", "depth")
    if key == "class_label":
        return "label"
    return key if key in COLUMNS and f"{STAGE}encoder.conv_in.weight" in archive.shapes else None


def nothing(settings: Settings, sizes: Sizes) -> Condition:
    """A start token."""
    start = settings.get("model.params.sos_token", 0)
    return Condition("none", 1, gpt_names.after_start(sizes.V, sizes.d, start))


def label(settings: Settings, sizes: Sizes) -> Condition:
    """Classes, at most all tokens, in whose table they are."""
    told = settings.get("model.params.cond_stage_config.params.n_classes")
    imagenet = "imagenet" in str(settings.get("data", "")).lower()
    classes = min(told if isinstance(told, int) else IMAGENET if imagenet else sizes.V, sizes.V)
    guessed = f"Nothing says how many classes there are: labels 0 to {classes - 1} are taken, all of the table."
    return Condition(
        "label",
        1,
        gpt_names.after_label(sizes.V, sizes.d, classes),
        encoder={"name": "label", "classes": classes, "dim": sizes.d},
        task={"condition": "label"},
        notes=[guessed] if classes == sizes.V else [],
    )


def codes(
    kind: str, stage: Part, settings: Settings, quantizer: tuple[Mapping[str, Any], Table], side: int, sizes: Sizes
) -> Condition:
    """Codes that the VQModel `stage` makes of maps of `side` pixels. Raises CheckpointError for one that is none of
    encoder `codes`."""
    told, book = quantizer
    config, column = read_config(stage, WHAT, rgb=False), COLUMNS[kind]
    channels, P = stage.shapes["encoder.conv_in.weight"][1], (side // config.factor) ** 2
    stage.refuse(_unlike_ours(kind, channels, settings, config, told, side, sizes.V), WHAT)
    table = vqgan_names.tokenizer(column, config, told["dim"], channels) | book
    archive = Part(stage, but=DRAWING)
    problems = archive.problems(table, WHAT)
    tensors = {} if problems else {f"prior.encoder.{name}": made for name, made in archive.tensors(table).items()}
    encoder = {
        **{"name": "codes", "field": column, "channels": channels, "dim": sizes.d, "weights": None},
        **{"tokenizer": config.model_dump(mode="json"), "quantizer": {k: v for k, v in told.items() if k != "name"}},
    }
    task, notes = _task(kind, channels)
    first = gpt_names.after_codes(*sizes, codes_of(told), P)
    return Condition(kind, P, first, tensors, encoder, task, problems, notes)


def _unlike_ours(
    kind: str,
    channels: int,
    settings: Settings,
    config: VQGANConfig,
    quantizer: Mapping[str, Any],
    side: int,
    V: int,
) -> Iterator[str]:
    """What keeps a condition from being the codes of encoder `codes`."""
    key = "model.params.cond_stage_config.params.ddconfig"
    own = image_side(config, settings, key) if settings.get(key) else side
    if (channels not in (1, 3)) if kind == "depth" else channels < 2:
        yield f"it reads pictures of {channels} channels, a depth map has 1 or 3 and a segmentation one a class"
    if own != side:
        yield f"it reads {own} x {own} pixels, and pictures have {side} x {side}"
    if settings.get("model.params.downsample_cond_size", -1) > 0:
        yield "conditions are made smaller before it reads them (downsample_cond_size), which encoder codes does not do"
    if quantizer["name"] != "vq":
        yield f"its codes are those of quantizer {quantizer['name']}, and encoder codes has vq"
    if V < (K := codes_of(quantizer)):
        yield f"it writes {K} codes, and the transformer knows {V} tokens"


def _task(kind: str, channels: int) -> tuple[dict[str, Any], list[str]]:
    """How task generation reads such maps, and what should be told of it."""
    notes = ["Left out: the decoder of conditions (cond_stage_model.decoder.*), which no prediction needs."]
    if kind == "depth":
        notes.append(
            "Depth maps are inverse, as MiDaS writes them; for others add --set tasks.generation.depth_maps=distance."
        )
        return {"condition": kind, "depth_maps": "inverse"}, notes
    shift = int(channels == COCO_STUFF)
    if shift:
        notes.append("Files hold class numbers 0 to 181 and 255 for void, as those of COCO-Stuff do.")
    return {"condition": kind, "labels": channels, "shift": shift}, notes
