"""The guiding-code oracle of UViM: a ViT that reads the answer and writes a short code grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from pydantic import Field, PositiveInt
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.blocks import Shape, Transformer, lecun_normal, patch_embedding, positions, to_tokens, token_grid
from cynosure.core.contracts import PartConfig, Quantizer, Tokenizer
from cynosure.core.records import Codes, CodeSpec, Encoded, Shapes
from cynosure.core.resize import resize_linear

STANDARDIZE_EPS = 1e-5


class FeatureNorm(nn.Module):
    """Each feature to zero mean and unit variance over a task's examples: keeps an untrained oracle from collapsing.

    Training uses the running statistics too (as Batch Renormalization does, Ioffe 2017), so that codes written in
    training and afterwards agree however small a batch is; ranks share their statistics.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    batches: torch.Tensor

    def __init__(self, dim: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, L, d] -> float32 [B, L, d]."""
        x = x.float()
        if self.training:
            self._update(x.detach().flatten(0, 1))
        return (x - self.mean) * (self.variance + STANDARDIZE_EPS).rsqrt()

    def _update(self, x: torch.Tensor) -> None:
        moments = torch.stack([x.mean(0), x.square().mean(0)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        self.batches += 1
        share = max(self.momentum, 1 / float(self.batches))
        self.mean.lerp_(moments[0], share)
        self.variance.lerp_(moments[1] - moments[0].square(), share)


@final
class ViTOracle(Tokenizer):
    """Omega of UViM (Kolesnikov et al. 2022, section 2.3), one stem a task, everything else shared.

    Answers [B, C, H, W] become patches, a transformer, a smaller grid of L positions, and one code a position. A stem
    reads all planes of its task alike; UViM's starts with weights 1.3 and 1.5 times as large for panoptic's classes and
    numbers, which it counts apart.
    """

    class Config(PartConfig):
        patch: int = Field(16, ge=1, description="pixels on the side of a patch")
        dim: int = Field(768, ge=1, description="width of the transformer")
        depth: int = Field(6, ge=0, description="transformer blocks")
        heads: int = Field(12, ge=1)
        mlp_dim: int = Field(3072, ge=1)
        code_grid: tuple[PositiveInt, PositiveInt] = Field(
            (16, 16), description="rows and columns of the code; their product is L"
        )
        context: bool = Field(True, description="also show the oracle the input image (UViM: no visible effect)")
        merge: Literal["resize", "linear"] = Field(
            "resize", description="from patches to code positions: UViM's resize, or a learnt map of the patches merged"
        )
        norm: Literal["standardize", "batch"] = Field(
            "standardize", description="each vector over its features (UViM), or each feature over the task's examples"
        )

    def __init__(self, config: Config, shapes: Shapes, quantizer: Quantizer) -> None:
        super().__init__()
        self.config = config
        self.quantizer = quantizer
        self.grid = token_grid(shapes.image_size, config.patch, "tokenizer vit_oracle")
        dim, (rows, columns) = config.dim, config.code_grid
        self.stems = nn.ModuleDict({t: patch_embedding(c, dim, config.patch) for t, c in shapes.channels.items()})
        self.context = patch_embedding(3, dim, config.patch) if config.context else None
        self.positions = positions(self.grid[0] * self.grid[1], dim)
        self.transformer = Transformer(dim, config.depth, config.heads, config.mlp_dim, shapes.channels)
        merged = 1
        if config.merge == "linear":
            if self.grid[0] % rows or self.grid[1] % columns:
                raise ValueError(
                    f"merge: linear needs a patch grid {self.grid} that code_grid {config.code_grid} divides"
                )
            merged = (self.grid[0] // rows) * (self.grid[1] // columns)
        self.head = lecun_normal(nn.Linear(dim * merged, quantizer.dim))
        tasks = shapes.channels if config.norm == "batch" else ()
        self.norms = nn.ModuleDict({task: FeatureNorm(quantizer.dim) for task in tasks})

    @property
    def spec(self) -> CodeSpec:
        return CodeSpec(self.quantizer.segments(self.code_positions), self.config.code_grid)

    @property
    def code_positions(self) -> int:
        rows, columns = self.config.code_grid
        return rows * columns

    def published_shapes(self) -> dict[str, Shape]:
        pixels = self.config.patch**2
        return {f"stems.{task}.weight": (self.config.dim, -1, pixels) for task in self.stems}

    def encode(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> Encoded:
        quantized = self.quantizer(self.bottleneck(targets, inputs, task))
        stats = {"codes_used": (quantized.usage > 0).sum() / len(quantized.usage)}
        return Encoded(Codes(quantized.ids, self.spec), quantized.vectors, quantized.losses, stats)

    def bottleneck(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """The vectors [B, L, d] that are quantized, standardised."""
        x = self.stems[task](targets)
        if self.context is not None:
            x = x + self.context(inputs["image"])
        x = self.transformer(to_tokens(x) + self.positions, task)
        x = self.head(self._merge(x.unflatten(1, self.grid)))
        if self.config.norm == "batch":
            return F.normalize(self.norms[task](x), dim=-1)
        return F.layer_norm(x.float(), x.shape[-1:], eps=STANDARDIZE_EPS)

    def _merge(self, x: torch.Tensor) -> torch.Tensor:
        """Token grid [B, h, w, d] -> code positions [B, L, d or d * merged tokens]."""
        rows, columns = self.config.code_grid
        if self.config.merge == "resize":
            return resize_linear(x, (rows, columns)).flatten(1, 2)
        B, h, w, d = x.shape
        x = x.view(B, rows, h // rows, columns, w // columns, d).transpose(2, 3)
        return x.reshape(B, rows * columns, -1)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.tokenizer("vit_oracle", ViTOracle)
