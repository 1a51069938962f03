"""Between latent grids and codes: what every tokenizer and base that reads pictures alone does around its network.

Shapes: B batch, N code positions, H W latent grid, r fold, C latent width, d = r * r * C width of a code vector.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from cynosure.core.blocks import to_grid
from cynosure.core.contracts import Base, Quantizer, Tokenizer
from cynosure.core.records import Codes, CodeSpec, Encoded, Shapes
from cynosure.core.resize import resize_linear

Grid = tuple[int, int]


def latent_grid(image_size: Grid, factor: int, part: str) -> Grid:
    """Rows and columns of latents, one for `factor` x `factor` pixels. Raises ValueError, naming the part."""
    if image_size[0] % factor or image_size[1] % factor:
        raise ValueError(
            f"{part} makes one latent of {factor} x {factor} pixels, and image size {image_size} is not a multiple of"
            f" {factor}: change image_size or the number of multipliers"
        )
    return image_size[0] // factor, image_size[1] // factor


def fold(x: torch.Tensor, grid: Grid, r: int) -> torch.Tensor:
    """Space to depth: [B, H * W, C] -> [B, H / r * W / r, r * r * C], by row, column, channel."""
    if r == 1:
        return x
    B, (h, w) = len(x), grid
    x = x.reshape(B, h // r, r, w // r, r, -1).transpose(2, 3)
    return x.flatten(3).flatten(1, 2)


def unfold(x: torch.Tensor, grid: Grid, r: int) -> torch.Tensor:
    """Depth to space, the inverse of `fold`: [B, h * w, r * r * C] and its grid (h, w) -> [B, h * r * w * r, C]."""
    if r == 1:
        return x
    B, (h, w) = len(x), grid
    return x.view(B, h, w, r, r, -1).transpose(2, 3).flatten(1, 4)


def width_of_latents(code_dim: int, r: int, part: str) -> int:
    """C. Raises ValueError where codes of width d cannot be r x r latents."""
    if code_dim % r**2:
        raise ValueError(
            f"{part}: a code of width {code_dim} cannot stand for {r} x {r} latents; let the quantizer's dim be a"
            f" multiple of {r**2}, or change fold"
        )
    return code_dim // r**2


class GridTokenizer(Tokenizer):
    """A network that makes one latent of `factor` x `factor` pixels of the answer, and `fold` x `fold` latents a code.

    It reads the answer only. Raises ValueError where sizes do not divide.
    """

    def __init__(self, shapes: Shapes, quantizer: Quantizer, factor: int, part: str, fold: int = 1) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.fold = fold
        self.latent_grid = latent_grid(shapes.image_size, factor, part)
        self.grid = latent_grid(shapes.image_size, factor * fold, f"{part} with fold {fold}")
        self.latent_dim = width_of_latents(quantizer.dim, fold, part)

    @property
    def spec(self) -> CodeSpec:
        return CodeSpec(self.quantizer.segments(self.code_positions), self.grid)

    @property
    def code_positions(self) -> int:
        return self.grid[0] * self.grid[1]

    @abstractmethod
    def latents(self, targets: torch.Tensor, task: str) -> torch.Tensor:
        """Targets [B, C, H, W] -> latents [B, H * W, C] of the latent grid, row by row."""

    def bottleneck(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return fold(self.latents(targets, task), self.latent_grid, self.fold)

    def encode(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> Encoded:
        quantized = self.quantizer(self.bottleneck(targets, inputs, task))
        stats = {"codes_used": (quantized.usage > 0).sum() / len(quantized.usage)}
        return Encoded(Codes(quantized.ids, self.spec), quantized.vectors, quantized.losses, stats)


class GridBase(Base):
    """A network that draws `factor` x `factor` pixels for every latent, from the code alone: inputs are not looked at.

    A code grid of another size than the network's is resized, so that codes of any tokenizer with a grid will do.
    Without codes it draws what it draws for all-zero vectors. Raises ValueError where there are no codes on a grid.
    """

    def __init__(self, shapes: Shapes, factor: int, part: str, fold: int = 1) -> None:
        super().__init__()
        if shapes.spec is None or shapes.spec.grid is None:
            raise ValueError(f"{part} draws from codes alone: it needs a tokenizer with a code grid")
        self.fold = fold
        self.latent_grid = latent_grid(shapes.image_size, factor, part)
        self.code_grid = shapes.spec.grid
        self.code_dim = shapes.code_dim
        self.latent_dim = width_of_latents(shapes.code_dim, fold, part)

    @abstractmethod
    def draw(self, latents: torch.Tensor, task: str) -> torch.Tensor:
        """Latents [B, C, H, W] of the latent grid -> raw outputs [B, C, H, W] of the picture."""

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, N, C] -> what the network reads, [B, N, z]."""
        return latents

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        rows, columns = self.code_grid
        if vectors is None:
            vectors = next(self.parameters()).new_zeros(_rows(inputs), rows * columns, self.code_dim)
        grid = (rows * self.fold, columns * self.fold)
        x = self.project(unfold(vectors, self.code_grid, self.fold))
        if grid != self.latent_grid:
            x = resize_linear(x.unflatten(1, grid), self.latent_grid).flatten(1, 2)
        return self.draw(to_grid(x, self.latent_grid), task)


def _rows(inputs: Mapping[str, Any]) -> int:
    """B."""
    return len(next(iter(inputs.values())))
