"""What checks feed to components: shapes, random inputs, synthetic rows; and what they ask of every module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from cynosure.core.contracts import DatasetInfo, Quantizer, Tokenizer
from cynosure.core.records import CodeSpec, Encoded, Quantized, Segment, Shapes
from cynosure.errors import CynosureError

IMAGE_SIZE = (32, 32)
ODD_SIZE = (30, 45)
"""Pixels that are no multiple of a patch."""
CHANNELS = {"first": 3, "second": 5}
ROWS = 4
CODE_DIM = 8
INFO = DatasetInfo(
    name="synthetic",
    fields=("image", "panoptic", "depth", "degraded", "caption", "label"),
    classes=(("ground", False), ("box", True), ("ball", True)),
    category_ids=(1, 2, 3),
)


def shapes(depth: int = 1) -> Shapes:
    """32 x 32 pixels, two tasks, 2 x 2 code positions of `depth` codes out of 16."""
    spec = CodeSpec((Segment("codes", 4, depth, 16),), grid=(2, 2))
    return Shapes(IMAGE_SIZE, CHANNELS, spec, CODE_DIM)


def two_segments() -> Shapes:
    """The same with two positions of 4 codes before those of 16."""
    spec = CodeSpec((Segment("scene", 2, 1, 4), Segment("codes", 4, 1, 16)), grid=(2, 2))
    return Shapes(IMAGE_SIZE, CHANNELS, spec, CODE_DIM)


class Codewords(Quantizer):
    """Codewords that never change, each vector the sum of those of its codes."""

    def __init__(self, spec: CodeSpec) -> None:
        super().__init__()
        self.vocab_size, self.dim, self.depth = spec.vocab_size, CODE_DIM, spec.depth
        self.table = torch.randn(self.depth, self.vocab_size, CODE_DIM, generator=torch.Generator().manual_seed(2))

    def code_vectors(self) -> torch.Tensor:
        return self.table

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([book[ids[..., i]] for i, book in enumerate(self.table)]).sum(0)

    def forward(self, vectors: torch.Tensor) -> Quantized:
        raise NotImplementedError("only its codewords are read")


class Oracle(Tokenizer):
    """What a prior sees of a tokenizer: the spec and the quantizer, unless given one with fixed codewords."""

    def __init__(self, of: Shapes, quantizer: Quantizer | None = None) -> None:
        super().__init__()
        assert of.spec is not None
        self._spec = of.spec
        self.quantizer: Quantizer = quantizer or Codewords(of.spec)

    @property
    def spec(self) -> CodeSpec:
        return self._spec

    def encode(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> Encoded:
        raise NotImplementedError("only its codewords are read")


def without_codes() -> Shapes:
    """The same before there is a tokenizer."""
    return Shapes(IMAGE_SIZE, CHANNELS)


def inputs(seed: int = 0, size: tuple[int, int] = IMAGE_SIZE) -> dict[str, Any]:
    """Inputs of four rows of any task: image in [-1, 1], caption, label."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(ROWS, 3, *size, generator=generator) * 2 - 1
    captions = [f"{word} number {seed}" for word in ("a red box", "two balls", "", "größe: ein Würfel")]
    return {"image": image, "caption": captions, "label": torch.arange(ROWS) + seed}


def targets(task: str, seed: int = 0, size: tuple[int, int] = IMAGE_SIZE) -> torch.Tensor:
    """Targets of four rows as a tokenizer sees them, [4, C, 32, 32]."""
    return torch.randn(ROWS, CHANNELS[task], *size, generator=torch.Generator().manual_seed(seed))


def one_row(values: Mapping[str, Any], row: int) -> dict[str, Any]:
    """A batch of one row out of a batch."""
    return {name: value[row : row + 1] for name, value in values.items()}


def row(seed: int = 0, size: tuple[int, int] = (37, 53), thing: int = 2) -> dict[str, Any]:
    """A row with every column in its canonical form: ground with a box or ball on it."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    panoptic = np.zeros((height, width, 2), dtype=np.int32)
    panoptic[height // 3 :, :, 0] = 1
    panoptic[height // 2 :, width // 4 : width // 2] = (thing, 1)
    panoptic[height // 2 :, width // 2 :] = (5 - thing, 2)
    depth = rng.uniform(1, 5, (height, width)).astype(np.float32)
    depth[0] = 0
    return {
        "image": image,
        "panoptic": panoptic,
        "crowd": np.where(panoptic[..., 0] == 0, np.arange(width) // 8 % 2 * thing, 0),
        "depth": depth,
        "degraded": image // 8,
        "caption": "a box on the ground",
        "label": seed % len(INFO.classes),
        "image_id": seed,
        "file_name": f"{seed}.png",
    }


def built_at_odd_size(build: Callable[[Shapes], Any], of: Shapes) -> Any:
    """The part at `ODD_SIZE`, or None if it refuses that size in a sentence that names it."""
    try:
        return build(replace(of, image_size=ODD_SIZE))
    except (CynosureError, ValueError) as error:
        said = str(error)
        named = "image" in said and "size" in said and all(str(side) in said for side in ODD_SIZE)
        assert named, f"say that the image size {ODD_SIZE} does not fit, and what does, not: {said}"
        return None


def loosen(module: nn.Module) -> nn.Module:
    """Noise on all parameters, because a head that starts at zero hides what is behind it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


def require_gradients(module: nn.Module, loss: torch.Tensor) -> None:
    """Every trainable parameter takes part in the loss; data-parallel training waits for those that do not."""
    loss.backward()
    missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, f"no gradient reaches {', '.join(missing[:5])}; use these parameters or remove them"


@contextmanager
def require_unchanged(given: Mapping[str, Any]) -> Iterator[None]:
    """Tensors by name that must be after the block what they were before: others read them too."""
    before = {name: value.detach().clone() for name, value in given.items() if torch.is_tensor(value)}
    yield
    changed = [name for name, value in before.items() if not torch.equal(value, given[name])]
    assert not changed, f"{', '.join(changed)} changed in place; others read the same tensors, work on a copy"


def require_state_round_trip(
    make: Callable[[int], nn.Module], use: Callable[[Any], Iterable[torch.Tensor]], change: Callable[[Any], Any]
) -> None:
    """A copy filled from `state_dict` answers as the original: nothing that matters is kept elsewhere.

    `make(seed)` builds the module, `change` moves it away from its first state, `use` gives its answers.
    """
    original, copy = make(0), make(1)
    change(original)
    copy.load_state_dict(original.state_dict())
    for a, b in zip(use(original.eval()), use(copy.eval()), strict=True):
        assert torch.equal(a, b), "a copy loaded from state_dict answers differently; register all state as buffers"


def require_same(a: torch.Tensor, b: torch.Tensor, message: str, tolerance: float = 1e-4) -> None:
    """Equal up to rounding, relative to the larger of 1 and the greatest value."""
    assert a.shape == b.shape, f"{message} (shapes {list(a.shape)} and {list(b.shape)})"
    a, b = a.detach(), b.detach()
    scale = max(1.0, float(a.abs().max()))
    error = float((a - b).abs().max())
    assert error <= tolerance * scale, f"{message} (difference {error:.2g})"
