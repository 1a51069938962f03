"""PatchGAN, the discriminator of pix2pix (Isola et al. 2017, appendix 6.1.2) as VQGAN and RQ-VAE use it.

Submodules bear the names that taming-transformers gives them (`main.N`).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from cynosure_plugins.quantizers.codebook import sum_over_ranks

SLOPE = 0.2
WIDEST = 8
SPREAD = 0.02
ACT_NORM_EPS = 1e-6


class ActNorm(nn.Module):
    """scale * (x + loc) by channel, [B, C, H, W]; begins with what makes the first training batch standard normal."""

    initialized: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not self.initialized.item():
            self._begin(x.detach().float())
        return self.scale * (x + self.loc)

    @torch.no_grad()
    def _begin(self, x: torch.Tensor) -> None:
        rows = x.transpose(0, 1).flatten(1)
        count = torch.full((len(rows),), float(rows.shape[1]), device=x.device)
        count, sums = sum_over_ranks(count, torch.stack([rows.sum(1), rows.square().sum(1)], 1))
        mean = sums[:, 0] / count
        deviation = ((sums[:, 1] - count * mean.square()) / (count - 1)).clamp(min=0).sqrt()
        self.loc.copy_(-mean.view_as(self.loc))
        self.scale.copy_((1 / (deviation + ACT_NORM_EPS)).view_as(self.scale))
        self.initialized.fill_(1)


class PatchDiscriminator(nn.Module):
    """Pictures [B, 3, H, W] -> how real each patch looks, [B, 1, h, w] with h = H / 2^layers - 2.

    Convolutions of 4 x 4: `layers` that halve the size, the first one without a norm, one more, and one to a single
    channel. `channels` is the first width; it doubles with every layer, eightfold at most. `norm`: batch or act.
    Weights begin as N(0, 0.02), scales of batch norms as N(1, 0.02).
    """

    def __init__(self, channels: int, layers: int, norm: str) -> None:
        super().__init__()
        widths = [channels * min(2**i, WIDEST) for i in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            stride = 2 if number < layers else 1
            parts += [
                nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1, bias=norm == "act"),
                nn.BatchNorm2d(outputs) if norm == "batch" else ActNorm(outputs),
                nn.LeakyReLU(SLOPE),
            ]
        self.main = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.apply(_begin)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.main(x)


def _begin(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, SPREAD)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, SPREAD)
