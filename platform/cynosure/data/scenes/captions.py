"""What a scene shows, in words: true captions with attributes and relations, the list of objects behind them, and the
way back from a caption to what it says."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from cynosure.data.scenes.draws import Draws
from cynosure.data.scenes.layout import COLORS, GROUNDS, MATERIALS, MATTE, SHAPES, SKIES, Layout
from cynosure.errors import DataError

RELATIONS = ("left of", "right of", "in front of", "behind")
SIZES = ("small", "large")
_CAPTION_STREAM = 3
_COLOR_NAMES = tuple(COLORS)
_SKY_PHRASES = {"blue": "under a blue sky", "hazy": "under a hazy sky", "sunset": "at sunset", "dusk": "at dusk"}
_GROUND_PHRASES = {kind: f"on {kind} ground" for kind in GROUNDS}
_BESIDE = 0.15
"""Objects whose centres are this share of the image width apart are left and right of each other."""
_EMPTY = "an empty scene"


@dataclass(frozen=True)
class NamedObject:
    """An object as a caption names it; None where the caption does not say."""

    shape: str
    color: str
    size: str | None = None
    material: str | None = None


@dataclass(frozen=True)
class Described:
    """What a caption says: no object, one, or two with how the first stands to the second (one of `RELATIONS`)."""

    objects: tuple[NamedObject, ...]
    relation: str | None = None


def size_word(large: bool) -> str:
    return SIZES[bool(large)]


def list_objects(layout: Layout, number: np.ndarray, area: np.ndarray) -> list[list[dict[str, Any]]]:
    """For every scene its objects from left to right.

    Keys: `instance` (the id in the panoptic map), `shape`, `color`, `size`, `material`, `area` (visible pixels).
    """
    scenes: list[list[dict[str, Any]]] = [[] for _ in range(layout.batch)]
    for scene, slot in np.argwhere(number > 0).tolist():
        scenes[scene].append(
            {
                "instance": int(number[scene, slot]),
                "shape": SHAPES[layout.shape[scene, slot]],
                "color": _COLOR_NAMES[layout.color[scene, slot]],
                "size": size_word(layout.large[scene, slot]),
                "material": MATERIALS[layout.material[scene, slot]],
                "area": int(area[scene, slot]),
            }
        )
    for objects in scenes:
        objects.sort(key=lambda thing: thing["instance"])
    return scenes


def with_article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def describe(seed: int, indices: np.ndarray, layout: Layout, number: np.ndarray, column: np.ndarray) -> list[str]:
    """One true sentence a scene, such as "a small red sphere left of a shiny blue box at sunset".

    `column` [B, K] is the mean visible column of every object as a share of the image width, so that "left of" agrees
    with the picture and with the instance ids. Sizes and materials are mentioned now and then, colours always.
    """
    draws = Draws(seed, indices, _CAPTION_STREAM)
    first, second = draws.uniform(0, 1).tolist(), draws.uniform(0, 1).tolist()
    say_size, say_material = draws.chance(0.5, 2).tolist(), draws.chance(0.4, 2).tolist()
    setting = draws.uniform(0, 1).tolist()
    away = layout.center[..., 1]

    def name(scene: int, slot: int, place: int) -> str:
        words = [_COLOR_NAMES[layout.color[scene, slot]], SHAPES[layout.shape[scene, slot]]]
        material = layout.material[scene, slot]
        if say_material[scene][place] and material != MATTE:
            words.insert(0, MATERIALS[material])
        if say_size[scene][place]:
            words.insert(0, size_word(layout.large[scene, slot]))
        return with_article(" ".join(words))

    def relation(scene: int, one: int, other: int) -> str:
        aside = column[scene, one] - column[scene, other]
        behind = away[scene, one] - away[scene, other]
        if abs(aside) > _BESIDE or abs(behind) < 0.3:
            return "left of" if number[scene, one] < number[scene, other] else "right of"
        return "in front of" if behind < 0 else "behind"

    captions = []
    for scene in range(layout.batch):
        slots = np.flatnonzero(number[scene]).tolist()
        if not slots:
            text = _EMPTY
        else:
            one = slots.pop(int(first[scene] * len(slots)) % len(slots))
            text = name(scene, one, 0)
            if slots:
                other = slots[int(second[scene] * len(slots)) % len(slots)]
                text += f" {relation(scene, one, other)} {name(scene, other, 1)}"
        if setting[scene] < 0.2:
            text += f" {_SKY_PHRASES[SKIES[layout.sky_kind[scene]]]}"
        elif setting[scene] < 0.4:
            text += f" {_GROUND_PHRASES[GROUNDS[layout.ground_kind[scene]]]}"
        captions.append(text)
    return captions


def parse_caption(caption: str) -> Described:
    """What a sentence of the grammar of `describe` says of objects; adjectives may stand in any order.

    Raises:
        DataError: the sentence is not of that grammar, so what it asks for cannot be checked.
    """
    text = " ".join(caption.lower().rstrip(". ").split())
    for phrase in (*_SKY_PHRASES.values(), *_GROUND_PHRASES.values()):
        text = text.removesuffix(f" {phrase}")
    if text == _EMPTY:
        return Described(())
    first, *rest = re.split(f" ({'|'.join(RELATIONS)}) ", text)
    names = [_parse_name(words, caption) for words in (first, *rest[1::2])]
    if len(names) > 2:
        raise _not_of_grammar(caption, "it names more than two objects")
    return Described(tuple(names), rest[0] if rest else None)


def _parse_name(text: str, caption: str) -> NamedObject:
    words = re.sub("^(a|an|the) ", "", text).split()
    said: dict[str, str] = {}
    kinds = {"shape": SHAPES, "color": _COLOR_NAMES, "size": SIZES, "material": MATERIALS}
    for word in words:
        kind = next((kind for kind, known in kinds.items() if word in known), None)
        if kind is None or kind in said:
            raise _not_of_grammar(caption, f"'{word}' is no shape, color, size or material, or one too many")
        said[kind] = word
    if not said.keys() >= {"shape", "color"} or words[-1] != said["shape"]:
        raise _not_of_grammar(caption, f"'{text}' does not name an object by color and shape")
    return NamedObject(**said)


def _not_of_grammar(caption: str, why: str) -> DataError:
    return DataError(
        f"the caption '{caption}' cannot be checked: {why}; write it like 'a red sphere left of a small blue box'"
    )
