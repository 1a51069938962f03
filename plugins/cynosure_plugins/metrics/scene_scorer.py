"""Which objects a picture of the embedded scenes shows: a small network, whose weights lie beside this file.

`benchmarks/scene_scorer.py` trains it and measures it on true renders. Shapes: B batch, Q = 80 kinds of object (shape,
colour, size), H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cynosure.data.scenes.captions import SIZES, Described, NamedObject
from cynosure.data.scenes.layout import COLORS, SHAPES
from cynosure.errors import CheckpointError
from cynosure.train.checkpoint import load_state, read_tensors

SIZE = 64
KINDS = (len(SHAPES), len(COLORS), len(SIZES))
WEIGHTS = Path(__file__).with_name("scene_scorer.safetensors")
_EPS = 1e-3


class Layer(nn.Sequential):
    """3 x 3 convolution, batch norm, GELU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU())


class SceneScorer(nn.Module):
    """Pictures uint8 [B, 3, H, W] -> log-probabilities [B, 1 + Q, 32, 32] of what every cell of 2 x 2 pixels shows.

    Number 0 is no object, number 1 + q the kind q of `KINDS`, sizes counting fastest.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        middle, deep = 2 * width, 3 * width
        self.stem = nn.Conv2d(3, width, 4, stride=2, padding=1)
        self.fine = Layer(width, width)
        self.middle = nn.Sequential(Layer(width, middle), Layer(middle, middle))
        self.coarse = nn.Sequential(Layer(middle, deep), Layer(deep, deep))
        self.join_middle = nn.Sequential(nn.Conv2d(deep + middle, middle, 1), Layer(middle, middle))
        self.join_fine = nn.Sequential(nn.Conv2d(middle + width, width, 1), Layer(width, 2 * width))
        self.head = nn.Conv2d(2 * width, 1 + int(np.prod(KINDS)), 1)
        self.presence = nn.Parameter(torch.tensor([1.5, 0.0]))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.float() / 127.5 - 1
        if x.shape[-2:] != (SIZE, SIZE):
            x = F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True)
        fine = self.fine(F.gelu(self.stem(x.contiguous(memory_format=torch.channels_last))))
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = self.coarse(F.max_pool2d(middle, 2))
        middle = self.join_middle(torch.cat([F.interpolate(coarse, scale_factor=2), middle], 1))
        fine = self.join_fine(torch.cat([F.interpolate(middle, scale_factor=2), fine], 1))
        return self.head(fine).float().log_softmax(1)

    def presence_logits(self, area: torch.Tensor) -> torch.Tensor:
        """Logits that an object is there which fills so many cells of a picture."""
        return self.presence[0] * (area + _EPS).log() + self.presence[1]

    @torch.no_grad()
    def look(self, pictures: Sequence[np.ndarray]) -> list[Seen]:
        """Pictures uint8 [H, W, 3] of one size -> what each shows."""
        device = self.presence.device
        pixels = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy()).to(device)
        shares = torch.cat([self(part).exp()[:, 1:] for part in pixels.split(64)])
        columns = (torch.arange(shares.shape[-1], device=device) + 0.5) / shares.shape[-1]
        area, moment = shares.sum((2, 3)), (shares * columns).sum((2, 3))
        least = float((-self.presence[1] / self.presence[0]).exp())
        parts = zip(area.cpu().numpy(), moment.cpu().numpy(), strict=True)
        return [Seen(a.reshape(KINDS), m.reshape(KINDS), least) for a, m in parts]


@dataclass(frozen=True)
class Seen:
    """Of every kind of object, [shapes, colours, sizes]: the cells it fills, and the sum of their columns in [0, 1].

    An object is there when it fills `least` cells.
    """

    area: np.ndarray
    moment: np.ndarray
    least: float

    def shows(self, name: NamedObject, sized: bool = False) -> bool:
        """Whether an object of that shape and colour is there, with `sized` also of the size, if one is said."""
        return bool(self.area[_kinds(name, sized)].sum() > self.least)

    def shows_all(self, caption: Described, sized: bool = False) -> bool:
        return all(self.shows(name, sized) for name in caption.objects)

    def share(self) -> float:
        """Of all shapes in all colours, the share that is there."""
        return float((self.area.sum(2) > self.least).mean())

    def agrees(self, caption: Described) -> bool:
        """Whether both objects are there and the first is where the caption says, left or right of the second."""
        one, other = (self._column(name) for name in caption.objects)
        return self.shows_all(caption) and (one < other) == (caption.relation == "left of")

    def _column(self, name: NamedObject) -> float:
        kinds = _kinds(name, sized=True)
        return float(self.moment[kinds].sum() / max(self.area[kinds].sum(), _EPS))


def tells_sides(caption: Described) -> bool:
    """Whether a caption says left or right of two objects that shape, colour or size tells apart."""
    if caption.relation not in ("left of", "right of"):
        return False
    one, other = caption.objects
    same = (one.shape, one.color) == (other.shape, other.color)
    return not same or {one.size, other.size} == set(SIZES)


def _kinds(name: NamedObject, sized: bool) -> tuple[int, int, int | slice]:
    size = SIZES.index(name.size) if sized and name.size else slice(None)
    return SHAPES.index(name.shape), list(COLORS).index(name.color), size


@lru_cache(maxsize=1)
def load_scorer(file: Path = WEIGHTS) -> SceneScorer:
    """The trained scorer, in evaluation mode, one for all that ask for it. Raises CheckpointError without its file."""
    if not file.is_file():
        raise CheckpointError(f"there is no scorer of scenes in {file}: `python benchmarks/scene_scorer.py` trains it.")
    scorer = SceneScorer()
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in read_tensors(file)[0].items()
    }
    load_state(scorer, tensors, file)
    return scorer.eval().requires_grad_(False)
