"""Latent quantisation: every dimension of a vector has a few scalar values of its own."""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field, model_validator
from torch import nn

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Quantizer
from cynosure.core.records import Quantized, Segment
from cynosure.errors import CheckpointError
from cynosure_plugins.quantizers.codebook import Watch, block_rows, count_by_code, require_width
from cynosure_plugins.quantizers.gradients import straight_through
from cynosure_plugins.quantizers.tripod import multi_information, spread

Sizes = tuple[Annotated[int, Field(ge=2, le=1024)], ...]
REACH = 0.5
"""Values begin evenly spaced in [-REACH, REACH]."""


@final
class LatentQuantizer(Quantizer):
    """Replaces number j of a vector by the nearest of its K_j values; the first wins ties.

    QLAE (Hsu et al. 2023, "Disentanglement via latent quantization"): the values are parameters that the
    quantisation loss pulls to the numbers, and the commitment loss pulls the numbers to their values. With
    `codebook: tanh` Tripod (Hsu et al. 2024): tanh of the number, rounded half to even to one of K_j evenly spaced
    values in [-1, 1], no losses but, if asked for, the penalty on latents that depend on each other; the one on the
    decoder is base qlae's `curvature`. An id is the place of the value, int64 throughout.

    Ids are [B, N, d], d codes a position; with `spread` they are [B, d·N, 1], one segment of N positions a dimension.
    """

    class Config(PartConfig):
        sizes: Sizes = Field(
            (10,) * 12,
            min_length=1,
            description="K of every dimension, which may differ; their number is the width d. QLAE: 10 values in twice"
            " as many dimensions as the data has factors; Tripod: 12 values",
        )
        codebook: Literal["learned", "frozen", "tanh"] = Field(
            "learned", description="values that learn by gradient, that stay as they begin, or Tripod's fixed grid"
        )
        shared: bool = Field(False, description="all dimensions have the same values, and so equal sizes")
        spread: bool = Field(
            False,
            description="every dimension is a segment of positions with its own vocabulary, not a depth of one"
            " position: any prior then models how dimensions depend on each other",
        )
        quantization: float = Field(0.01, gt=0, description="weight of the pull of learned values to the numbers")
        commitment: float = Field(0.01, ge=0, description="weight of the pull of numbers to their values; not for tanh")
        multi_information: float = Field(
            0.0,
            ge=0,
            description="weight of Tripod's penalty on latents of a batch that depend on each other, tanh only: 1e-10"
            " to 1e-4 by data set",
        )

        @model_validator(mode="after")
        def _equal(self) -> Any:
            if self.shared and len(set(self.sizes)) > 1:
                raise ValueError(f"shared needs equal sizes, not {', '.join(map(str, self.sizes))}")
            if self.multi_information and self.codebook != "tanh":
                raise ValueError(f"multi_information needs bounded latents: codebook tanh, not {self.codebook}")
            return self

    values: torch.Tensor
    size: torch.Tensor
    first: torch.Tensor
    padded: torch.Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.dim, self.vocab_size = len(config.sizes), max(config.sizes)
        self.depth = 1 if config.spread else self.dim
        size = torch.tensor(config.sizes)
        first = torch.zeros_like(size) if config.shared else size.cumsum(0) - size
        # Short rows repeat their last value, which as the later of two equal ones is never chosen.
        padded = first[:, None] + torch.minimum(torch.arange(self.vocab_size), size[:, None] - 1)
        self.register_buffer("size", size, persistent=False)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("padded", padded, persistent=False)
        self._begin(config.sizes[:1] if config.shared else config.sizes)
        self._watch = Watch()

    def _begin(self, sizes: tuple[int, ...]) -> None:
        """The values of all dimensions in one row [sum of K_j]."""
        if self.config.codebook == "tanh":
            grids = [2 * torch.arange(size) / (size - 1) - 1 for size in sizes]
            self.register_buffer("values", torch.cat(grids), persistent=False)
            return
        values = torch.cat([torch.linspace(-REACH, REACH, size) for size in sizes])
        if self.config.codebook == "learned":
            self.values = nn.Parameter(values)
        else:
            self.register_buffer("values", values)

    def segments(self, positions: int) -> tuple[Segment, ...]:
        sizes = self.config.sizes
        if self.config.spread:
            return tuple(Segment(f"latent{j}", positions, 1, size) for j, size in enumerate(sizes))
        return (Segment("codes", positions, self.dim, self.vocab_size, sizes if len(set(sizes)) > 1 else ()),)

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, N, d], or [B, d·N, 1] with `spread` -> vectors [B, N, d]."""
        if self.config.spread:
            ids = ids.view(len(ids), self.dim, -1).transpose(1, 2)
        return self.values.float()[self.first + ids]

    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> their values float32 [B, N, d] with a gradient, ids int64 [B, N, d], losses."""
        require_width(vectors, self.dim)
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            if self.training:
                self._watch.see(vectors)
            tanh = self.config.codebook == "tanh"
            bounded = vectors.tanh() if tanh else vectors
            ids = self._round(bounded.detach()) if tanh else self._nearest(bounded.detach())
            chosen = self.values.float()[self.first + ids]
            usage = count_by_code(ids.flatten(), self.vocab_size)
            if self.config.spread:
                ids = ids.transpose(1, 2).reshape(len(ids), -1, 1)
            vectors = straight_through(bounded, chosen)
            losses = self._losses(bounded, chosen)
            if self.config.multi_information:
                losses["multi_information"] = self.config.multi_information * _dependence(bounded, vectors)
            return Quantized(vectors, ids, losses, usage)

    @torch.no_grad()
    def _nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """The ids [B, N, d] of the nearest values, some vectors at a time."""
        table = self.values.float()[self.padded]
        rows = vectors.flatten(0, 1)[..., None]
        blocks = rows.split(block_rows(table.numel()))
        distances = table.new_empty(len(blocks[0]), *table.shape)  # one for all blocks
        ids = [torch.sub(block, table, out=distances[: len(block)]).abs_().argmin(-1) for block in blocks]
        return torch.cat(ids).view(vectors.shape)

    def _round(self, bounded: torch.Tensor) -> torch.Tensor:
        last = self.size - 1
        return ((bounded + 1) / 2 * last).round().long().clamp(torch.zeros_like(last), last)

    def _losses(self, vectors: torch.Tensor, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        """Two losses of the same value, up to their weights, and of different gradients."""
        config = self.config
        losses = {}
        if config.codebook == "learned":
            losses["quantization"] = config.quantization * (vectors.detach() - chosen).square().mean()
        if config.codebook != "tanh" and config.commitment:
            losses["commitment"] = config.commitment * (vectors - chosen.detach()).square().mean()
        return losses

    def learn(self) -> None:
        """Values learn by gradient; raises TrainingError when the vectors of the step were not finite."""
        self._watch.end_step()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        held = state_dict.get(f"{prefix}values")
        if held is not None and held.shape != self.values.shape:
            raise CheckpointError(
                f"The checkpoint holds {held.numel()} values of latents, this model {self.values.numel()}: give the "
                "quantizer the checkpoint's `sizes` and `shared`."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _dependence(bounded: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Multi-information of all latents of a picture, over the batch, in nats; both are [B, N, d]."""
    return multi_information(vectors.flatten(1), spread(bounded.flatten(1))).mean()


@hookimpl
def cynosure_register(register: Any) -> None:
    register.quantizer("latent", LatentQuantizer)
