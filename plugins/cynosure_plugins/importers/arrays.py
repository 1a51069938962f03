"""How arrays of another framework lie in one of our tensors: making the tensor, taking it apart again, its shape.

Flax keeps kernels as [in..., out...], torch as [out, in]. Shapes: d width, C channels, p patch side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Protocol

import numpy as np
import torch

Shape = tuple[int, ...]


class Arrays(Protocol):
    """Arrays by name: a mapping, or an archive that reads them when asked."""

    def __getitem__(self, name: str, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Layout:
    """`make(*arrays)` is the tensor; `shape(*shapes)` its shape, without the arrays; `split(gradient, shapes)` what a
    gradient of the tensor means for each array (for all but sums, also the inverse of `make`)."""

    make: Callable[..., np.ndarray]
    shape: Callable[..., Shape]
    split: Callable[[np.ndarray, Sequence[Shape]], list[np.ndarray]]


@dataclass(frozen=True)
class Made:
    """A tensor of ours: the names of the arrays it is made of, in order, and how they lie in it.

    `shapes` are those that the arrays must have, -1 for any size; tables that keep them elsewhere leave them out.
    """

    sources: tuple[str, ...]
    layout: Layout
    dtype: torch.dtype = torch.float32
    shapes: tuple[Shape, ...] = ()

    def make(self, arrays: Arrays) -> np.ndarray:
        return self.layout.make(*[arrays[name] for name in self.sources])

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        return self.layout.shape(*[shapes[name] for name in self.sources])

    def split(self, gradient: np.ndarray, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """The gradient of the tensor -> the gradient of each source, by its name."""
        parts = self.layout.split(gradient, [shapes[name] for name in self.sources])
        return dict(zip(self.sources, parts, strict=True))


def one_way(make: Callable[..., np.ndarray], shape: Callable[..., Shape]) -> Layout:
    """A layout for weights alone: gradients are never asked for."""

    def split(gradient: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        raise NotImplementedError("this tensor cannot be taken apart")

    return Layout(make, shape, split)


def _linear(inputs: int) -> Layout:
    """Kernels whose first `inputs` axes are summed over -> the weight of one linear layer, outputs in order."""

    def matrix(shape: Shape) -> Shape:
        return prod(shape[:inputs]), prod(shape[inputs:])

    def make(*kernels: np.ndarray) -> np.ndarray:
        return np.concatenate([k.reshape(matrix(k.shape)).T for k in kernels])

    def split(weight: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        ends = np.cumsum([matrix(s)[1] for s in shapes])[:-1]
        return [w.T.reshape(s) for w, s in zip(np.split(weight, ends), shapes, strict=True)]

    def shape(*shapes: Shape) -> Shape:
        return sum(matrix(s)[1] for s in shapes), matrix(shapes[0])[0]

    return Layout(make, shape, split)


def _flat_split(bias: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
    ends = np.cumsum([prod(s) for s in shapes])[:-1]
    return [b.reshape(s) for b, s in zip(np.split(bias, ends), shapes, strict=True)]


def _labels_make(*kernels: np.ndarray) -> np.ndarray:
    kernel = np.concatenate(kernels) if len(kernels) > 1 else kernels[0]
    return kernel.transpose(2, 0, 1).reshape(_labels_shape(kernel.shape))


def _labels_shape(*shapes: Shape) -> Shape:
    patch = round(sqrt(shapes[0][1]))
    return shapes[0][2], sum(s[0] for s in shapes), patch, patch


def _labels_split(weight: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
    kernel = weight.reshape(*weight.shape[:2], -1).transpose(1, 2, 0)
    return np.split(kernel, np.cumsum([s[0] for s in shapes])[:-1])


SAME = Layout(lambda array: array, lambda shape: shape, lambda gradient, shapes: [gradient])
LINEAR = _linear(1)
"""[in, out...] each -> [all out, in]: also heads' queries, keys and values [d, heads, d/heads] in one."""
MERGE = _linear(2)
"""[heads, d/heads, out] -> [out, d]."""
FLAT = Layout(lambda *a: np.concatenate([x.reshape(-1) for x in a]), lambda *s: (sum(map(prod, s)),), _flat_split)
"""Biases of any shape, one after another."""
CONV = Layout(
    lambda kernel: kernel.transpose(3, 2, 0, 1),
    lambda shape: (shape[3], shape[2], shape[0], shape[1]),
    lambda gradient, shapes: [gradient.transpose(2, 3, 1, 0)],
)
"""[p, p, in, out] -> [out, in, p, p]."""
POINTWISE = Layout(
    lambda *kernels: np.concatenate([kernel[:, :, 0, 0] for kernel in kernels]),
    lambda *shapes: (sum(s[0] for s in shapes), shapes[0][1]),
    lambda gradient, shapes: [
        part[:, :, None, None] for part in np.split(gradient, np.cumsum([s[0] for s in shapes])[:-1])
    ],
)
"""Torch's 1 x 1 convolutions, [out, in, 1, 1] each -> the weight of one linear layer [all out, in]."""
LINEAR_ROWS = one_way(
    lambda *weights: np.concatenate(weights), lambda *shapes: (sum(s[0] for s in shapes), *shapes[0][1:])
)
"""Torch's linear layers, [out, in] each -> one [all out, in]."""
LABELS = Layout(_labels_make, _labels_shape, _labels_split)
"""Embeddings of label patches, [C, p * p, d] each -> one convolution [d, all C, p, p]."""
SUM = Layout(lambda *a: np.sum(a, axis=0), lambda *s: s[0], lambda gradient, shapes: [gradient for _ in shapes])
"""Biases of layers whose outputs are added."""


def part(axis: int, first: int, count: int) -> Layout:
    """`count` slices of an array from `first` on, along an axis."""

    def make(array: np.ndarray) -> np.ndarray:
        return array.take(range(first, first + count), axis)

    return one_way(make, lambda shape: (*shape[:axis], count, *shape[axis + 1 :]))


def one(index: int) -> Layout:
    """One of the arrays that an array stacks."""
    return one_way(lambda stack: stack[index], lambda shape: shape[1:])


def constant(value: np.ndarray) -> Layout:
    """A tensor made of no array."""
    return Layout(lambda: value, lambda: value.shape, lambda gradient, shapes: [])
