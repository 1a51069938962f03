"""The whole way from a picture to its answer in operations that torch.export traces, for pictures of any size.

Shapes: B batch, C maps, H W pixels of the picture, h w those of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class PictureNetwork(nn.Module):
    """The picture reduced to the model's size, what the base writes for it, and that applied to the picture itself."""

    def __init__(
        self,
        base: nn.Module,
        size: tuple[int, int],
        apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
        """`base`: [B, 3, h, w] in [-1, 1] -> outputs [B, C, h, w]; `apply`: picture and outputs -> answer."""
        super().__init__()
        self.base, self.size, self.answer = base, size, apply

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in [0, 1] -> the same."""
        outputs = self.base(2 * mean_pooled(picture, self.size) - 1)
        return self.answer(picture, outputs)


def mean_pooled(picture: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[B, C, H, W] at `size`, as `reduce_area` does it: every new pixel is the mean of all that it touches.

    Two matrix products, because exporters know adaptive pooling for one size of picture only.
    """
    rows, columns = (_means(n, new, picture) for n, new in zip(picture.shape[2:], size, strict=True))
    return rows @ picture @ columns.T


def _means(old: int, new: int, like: torch.Tensor) -> torch.Tensor:
    """[new, old]: the share that each old pixel has in each new one."""
    at, pixel = torch.arange(new, device=like.device)[:, None], torch.arange(old, device=like.device)
    first, last = at * old // new, ((at + 1) * old - 1) // new
    touched = (pixel >= first) & (pixel <= last)
    return touched.to(like.dtype) / (last - first + 1)
