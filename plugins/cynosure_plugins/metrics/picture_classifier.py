"""A small convolutional classifier of pictures, kept in one file: what samples show, and features to compare them by.

`benchmarks/cifar10_classifier.py` trains one. Shapes: B batch, d features, K classes, H W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from cynosure.errors import CheckpointError
from cynosure.train.checkpoint import load_state, read_metadata, read_tensors, write_tensors

KIND = "cynosure picture classifier"
"""What the metadata of its files say they are."""


class Block(nn.Module):
    """A convolution that halves the map, then one beside a shortcut: [B, C, H, W] -> [B, width, H / 2, W / 2]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norms[0](F.max_pool2d(self.first(x), 2)))
        return x + F.gelu(self.norms[1](self.second(x)))


class PictureClassifier(nn.Module):
    """Logits [B, K] of pictures uint8 [B, 3, H, W], which are resized to the `size` it was trained on."""

    def __init__(self, classes: tuple[str, ...], widths: tuple[int, ...], size: int, name: str) -> None:
        super().__init__()
        self.classes, self.widths, self.size, self.name = classes, widths, size, name
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip((widths[0], *widths), widths, strict=False)))
        self.head = nn.Linear(widths[-1], len(classes))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(pixels))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures uint8 [B, 3, H, W] -> what the last layer reads, float [B, d]."""
        x = pixels.float() / 127.5 - 1
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        x = F.gelu(self.norm(self.stem(x.contiguous(memory_format=torch.channels_last))))
        return self.blocks(x).amax(dim=(2, 3))

    def save(self, path: Path) -> None:
        """One safetensors file, with all that `load_classifier` must know."""
        made_as = {"classes": self.classes, "widths": self.widths, "size": self.size, "name": self.name}
        write_tensors(path, self.state_dict(), {"kind": KIND, "made_as": json.dumps(made_as)})


def is_classifier(path: Path) -> bool:
    """Whether a file is one that `PictureClassifier.save` wrote."""
    return path.suffix == ".safetensors" and read_metadata(path).get("kind") == KIND


@lru_cache(maxsize=2)
def load_classifier(file: str) -> PictureClassifier:
    """The classifier in a file, in evaluation mode, one for all that ask for it.

    Raises CheckpointError for a file that is missing, damaged or of something else.
    """
    path = Path(file).expanduser()
    if not path.is_file() or not is_classifier(path):
        raise CheckpointError(
            f"{path} is no picture classifier: train one with benchmarks/cifar10_classifier.py and give its file."
        )
    tensors, metadata = read_tensors(path)
    made_as: Mapping = json.loads(metadata["made_as"])
    classifier = PictureClassifier(
        tuple(made_as["classes"]), tuple(made_as["widths"]), made_as["size"], made_as["name"]
    )
    load_state(classifier, tensors, path)
    return classifier.eval().requires_grad_(False)
