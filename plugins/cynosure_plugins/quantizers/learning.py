"""A codebook and the ways it learns: discounted totals, moving averages, gradients, or one linear map of all codewords.

Shapes: M vectors, K codewords, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from cynosure.core.contracts import PartConfig
from cynosure_plugins.quantizers.codebook import (
    from_first_rank,
    lottery,
    require_finite,
    require_size,
    split,
    sum_over_ranks,
    tile,
    unit,
)

SMALLEST_COUNT = 1e-6
Update = Literal["totals", "ema", "gradient", "simvq"]


class CodebookConfig(PartConfig):
    """Options of a codebook, whichever quantizer holds it."""

    vocab_size: int = Field(4096, ge=1, description="K, codewords in the codebook")
    update: Update = Field(
        "totals",
        description="how codewords learn: totals (UViM), ema (VQ-VAE: totals with Laplace smoothing), gradient, or"
        " simvq (frozen random codewords times one linear layer learnt by gradient: all of them move together)",
    )
    beginning: Literal["normal", "uniform"] = Field(
        "normal", description="first codewords: of variance 1 / K (UViM, MaskGIT), or between -1 / K and 1 / K (VQGAN)"
    )
    decay: float = Field(0.995, ge=0, lt=1, description="factor on the totals before a step's vectors are added")
    min_count: float = Field(
        0.1,
        ge=0,
        description="codewords counted less are replaced; 0 never replaces. Counts are discounted sums: one vector a"
        " step is 1 / (1 - decay)",
    )
    replace: Literal["split", "restart"] = Field(
        "split", description="with what: a copy of the most used codeword, or a random vector of the step"
    )
    split_noise: float = Field(0.001, ge=0, description="relative size of the noise on a copied codeword")
    seed: int = Field(0, ge=0, lt=2**31, description="seeds the noise, the choice of vectors, and a warm-up's codebook")


class Codebook(nn.Module):
    """K codewords of width d that learn from the vectors they were chosen for.

    The state is two discounted totals, `counts` [K] and `sums` [K, d]; a codeword is their quotient (Kolesnikov et al.
    2022, UViM; the moving averages of van den Oord et al. 2017, appendix A.1, are these times 1 - decay). `learn`, once
    an optimizer step, decays them and adds what `collect` saw in all its micro-batches on all ranks. With `gradient`
    the codewords are a parameter instead; with `simvq` (Zhu et al. 2024) they are `linear(frozen)`, and none is ever
    replaced. Noise and choices depend on `seed` and the `step` buffer only, so replicas stay equal and a resumed run
    repeats the original.
    """

    counts: torch.Tensor
    sums: torch.Tensor
    frozen: torch.Tensor
    step: torch.Tensor

    def __init__(self, config: CodebookConfig, width: int, normalize: bool = False) -> None:
        super().__init__()
        self.config: Any = config
        self.size, self.width, self.normalize = config.vocab_size, width, normalize
        self.averaged = config.update in ("totals", "ema")
        self.restarts = config.replace == "restart" and config.min_count > 0
        # A codeword that the first step does not use restarts at once: the vectors are what the codebook begins with.
        count = config.min_count if self.restarts else 1.0
        codewords = torch.randn(self.size, width) * self.size**-0.5
        if config.beginning == "uniform":
            codewords = codewords.uniform_(-1 / self.size, 1 / self.size)
        if config.update == "gradient":
            self.weight = nn.Parameter(codewords)
        elif config.update == "simvq":
            self.register_buffer("frozen", codewords)
            self.linear = nn.Linear(width, width)
        else:
            self.register_buffer("sums", codewords * count)
        self.register_buffer("counts", torch.full((self.size,), count))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # What this optimizer step has seen so far. No buffers: nothing is left when a checkpoint is made, and
        # data-parallel training would overwrite them with those of the first rank.
        self._totals: tuple[torch.Tensor, torch.Tensor] | None = None
        self._drawn: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def codewords(self) -> torch.Tensor:
        """The codebook [K, d], float32."""
        if self.config.update == "gradient":
            return unit(self.weight.float(), self.normalize)
        if self.config.update == "simvq":
            with torch.autocast(self.frozen.device.type, enabled=False):
                return unit(self.linear(self.frozen), self.normalize)
        return unit(self.sums / self._divisors(self.counts)[:, None], self.normalize)

    def _divisors(self, counts: torch.Tensor) -> torch.Tensor:
        """By what sums are divided [K]: the counts, with Laplace smoothing for `ema`."""
        if self.config.update == "totals":
            return counts
        total, epsilon = counts.sum(), 1e-5 / (1 - self.config.decay)
        return (counts + epsilon) / (total + self.size * epsilon) * total

    @torch.no_grad()
    def begin(self, codewords: torch.Tensor, counts: torch.Tensor) -> None:
        """Go on from these codewords [K, d] as if they had been used `counts` [K] times, discounted."""
        self.counts.copy_(counts)
        if self.averaged:
            self.sums.copy_(codewords * self._divisors(self.counts)[:, None])
        else:
            (self.weight if self.config.update == "gradient" else self.frozen).copy_(codewords)

    @torch.no_grad()
    def collect(self, vectors: torch.Tensor, ids: torch.Tensor, usage: torch.Tensor) -> None:
        """Adds vectors [M, d] that chose the codes `ids` [M], `usage` [K] times each, to what the step has seen.

        One by one, so that the totals are those of one big batch.
        """
        if self._totals is None:
            rows = self.size if self.averaged else 1
            self._totals = torch.zeros_like(self.counts), vectors.new_zeros(rows, self.width)
        counts, sums = self._totals
        counts += usage
        sums.index_add_(0, ids if self.averaged else torch.zeros_like(ids), vectors)
        if self.restarts:
            self._draw(vectors)

    def _draw(self, vectors: torch.Tensor) -> None:
        """Keeps a random choice of at most K of all vectors of the step."""
        lots = lottery(vectors, self._seed)
        if self._drawn is not None:
            lots, vectors = torch.cat([self._drawn[0], lots]), torch.cat([self._drawn[1], vectors])
        kept = lots.argsort()[: self.size]
        self._drawn = lots[kept], vectors[kept]

    @torch.no_grad()
    def learn(self) -> None:
        """Decay the totals, add what the step has seen, replace what is no longer used."""
        totals, drawn = self._totals, self._drawn
        self.forget()
        if totals is not None:
            self._add(*sum_over_ranks(*totals))
            self._replace_unused(drawn)

    def forget(self) -> None:
        """Leave out what the step has seen."""
        self._totals = self._drawn = None

    def _add(self, counts: torch.Tensor, sums: torch.Tensor) -> None:
        require_finite(sums, f" at codebook step {int(self.step)}")
        # An entry that is never replaced stops decaying in time, else its codeword would end as 0 / 0.
        decay = torch.where(self.counts > SMALLEST_COUNT, self.config.decay, 1.0)
        self.counts.mul_(decay).add_(counts)
        self.step += 1
        if self.averaged:
            self.sums.mul_(decay[:, None]).add_(sums)

    def _replace_unused(self, drawn: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        config = self.config
        if config.update == "simvq" or config.min_count == 0 or float(self.counts.min()) >= config.min_count:
            return
        table = self.sums if self.averaged else self.weight
        if drawn is not None:
            self._restart(table, drawn[1])
        elif not self.restarts:
            counts, rows = self.counts.cpu(), table.detach().cpu()  # a sequential loop: never on an accelerator
            noise = self._noise(self._generator())
            split(counts.numpy(), rows.numpy(), config.min_count, noise, halve=self.averaged)
            self.counts.copy_(counts)
            table.copy_(rows)

    def _restart(self, table: torch.Tensor, drawn: torch.Tensor) -> None:
        """Unused codewords become vectors of the step, those of the first rank, with the least count that survives."""
        vectors = from_first_rank(tile(drawn, self.size, self._generator()))
        unused = self.counts < self.config.min_count
        counts = self.counts.clamp_min(self.config.min_count)
        self.counts.copy_(counts)
        rows = unit(vectors, self.normalize) * (counts[:, None] if self.averaged else 1)
        table.copy_(torch.where(unused[:, None], rows, table))

    @property
    def _seed(self) -> int:
        return (self.config.seed << 32) + int(self.step)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed)

    def _noise(self, generator: torch.Generator) -> Callable[[], np.ndarray]:
        size = self.config.split_noise

        def draw() -> np.ndarray:
            return (1 + size * (2 * torch.rand(self.width, generator=generator) - 1)).numpy()

        return draw

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        held = next(
            (state_dict[prefix + name] for name in ("sums", "weight", "frozen") if prefix + name in state_dict), None
        )
        require_size(held, self.size, self.width)
        super()._load_from_state_dict(state_dict, prefix, *args)
