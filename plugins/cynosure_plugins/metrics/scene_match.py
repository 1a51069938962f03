"""Whether pictures of the embedded scenes show what their captions name, judged by a scorer that comes along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig
from cynosure.core.metrics import Metric, gathered
from cynosure.core.records import Prediction
from cynosure.data.scenes.captions import Described, parse_caption
from cynosure.errors import CynosureError, DataError
from cynosure_plugins.metrics.scene_scorer import Seen, load_scorer, tells_sides

NAMES = ("objects", "chance", "sizes", "sides")


class SceneMatch(Metric):
    """Of predictions with 'caption' in their `meta` and the value 'rgb', uint8 [H, W, 3] of one size.

    objects: share of captions all of whose objects are there, each in its shape and colour; chance: what that would be
    if captions named as many objects, but any, so that a picture full of everything is found out; sizes: of those
    captions that say a size, also in that size; sides: share of captions with left or right whose two objects are there
    and stand so; scorable: share of captions that could be read, the others count nowhere else. NaN without such a
    caption. The scorer reads the picture alone and makes mistakes: `benchmarks/scene_scorer.py --measure` counts them
    on true renders, and codes from the oracle show the ceiling of a tokenizer. Two objects of one kind are not told
    from one.
    """

    class Config(PartConfig):
        pass

    TESTING: ClassVar = {"needs": "pictures of the scenes that captions describe"}
    compares = ("rgb",)

    def __init__(self, config: Config) -> None:
        self._scorer = load_scorer()
        self.reset()

    def reset(self) -> None:
        self._hits, self._counts = np.zeros(len(NAMES)), np.zeros(len(NAMES))
        self._read = np.zeros(2)

    def to(self, device: torch.device | str) -> Self:
        self._scorer.to(device)
        return self

    def update(self, predictions: Sequence[Prediction], truths: Sequence[Prediction]) -> None:
        if len(predictions) != len(truths):
            raise ValueError(f"{len(predictions)} predictions came with {len(truths)} truths")
        captions = [_read(prediction) for prediction in predictions]
        self._read += sum(caption is not None for caption in captions), len(captions)
        pairs = [(p.values["rgb"], caption) for p, caption in zip(predictions, captions, strict=True) if caption]
        if not pairs:
            return
        for seen, (_, caption) in zip(self._scorer.look([picture for picture, _ in pairs]), pairs, strict=True):
            for i, verdict in enumerate(verdicts(seen, caption)):
                if verdict is not None:
                    self._hits[i] += verdict
                    self._counts[i] += 1

    def compute(self) -> dict[str, torch.Tensor]:
        sums = gathered((self._hits, self._counts, self._read))
        hits, counts, read = (np.sum(parts, axis=0) for parts in zip(*sums, strict=True))
        with np.errstate(invalid="ignore"):
            shares = dict(zip((*NAMES, "scorable"), (*(hits / counts), read[0] / read[1]), strict=True))
        return {name: torch.tensor(float(share)) for name, share in shares.items()}


def verdicts(seen: Seen, caption: Described) -> tuple[float | None, ...]:
    """The parts `NAMES` of a picture: 1 where it is as its caption says, None where that says nothing of it."""
    objects = seen.shows_all(caption) if caption.objects else None
    chance = seen.share() ** len(caption.objects) if caption.objects else None
    sizes = seen.shows_all(caption, sized=True) if any(name.size for name in caption.objects) else None
    return objects, chance, sizes, seen.agrees(caption) if tells_sides(caption) else None


def _read(prediction: Prediction) -> Described | None:
    if "caption" not in prediction.meta:
        raise CynosureError("scene_match measures pictures made from captions: use it with the task text_to_image.")
    try:
        return parse_caption(prediction.meta["caption"])
    except DataError:
        return None


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("scene_match", SceneMatch)
