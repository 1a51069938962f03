"""The prior of VAR: all codes of a scale at once, scale after scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, cast, final, runtime_checkable

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.blocks import KVCache
from cynosure.core.contracts import Encoder, PartConfig, Prior, Tokenizer
from cynosure.core.decoding import draw, row_uniforms
from cynosure.core.guidance import guide
from cynosure.core.packing import sampling
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Shapes
from cynosure.errors import CynosureError
from cynosure_plugins.priors.adaptive import AdaptiveBlock, AdaptiveNorm
from cynosure_plugins.priors.prefix import INITIAL_STD, Prefix, initialize

FIRST_GATE, FIRST_SCALE = 1e-5, 0.5
"""What the first weights of gates, and of scales and shifts, are multiplied by."""


@runtime_checkable
class Multiscale(Protocol):
    """What a quantizer must be for next-scale prediction; see quantizer `multiscale`."""

    scales: tuple[int, ...]

    def partial(self, ids: torch.Tensor, scale: int) -> torch.Tensor: ...

    def partials(self, ids: torch.Tensor) -> torch.Tensor: ...


@final
class NextScale(Prior):
    """p(z | x) as a product over scales, whose codes are independent given coarser ones (Tian et al. 2024, VAR,
    section 3.1). Needs quantizer `multiscale`.

    A scale reads the sum of all coarser ones at its own size, the first one the condition: the task's vector plus the
    mean of what the encoder says, which also modulates every block and norm (AdaLN). More than one vector of context
    comes before the codes, seen by all of them. Attention is by cosine. The published models of depth n are `depth: n,
    dim: 64 n, heads: n, mlp_dim: 256 n, drop_path: n / 240, condition_dropout: 0.1, task_tokens: false` with encoder
    `label` of the same width; they are sampled with top_k 900, top_p 0.96 and guidance 2.5 (their cfg + 1).
    Weights begin with std 0.02 and gates with 1e-5 of that; published ones with (3 dim)**-0.5, less in what ends a
    block and in the head, and gates of depths 16 and 20 with 1e-3.

    Raises ValueError for options that contradict each other, CynosureError for codes of another quantizer.
    """

    TESTING: ClassVar = {"quantizer": {"name": "multiscale", "vocab_size": 16, "dim": 8, "scales": (1, 2)}}

    class Config(PartConfig):
        dim: int = Field(1024, ge=1, description="width of the transformer")
        depth: int = Field(16, ge=1, description="transformer blocks")
        heads: int = Field(16, ge=1)
        mlp_dim: int = Field(4096, ge=1)
        drop_path: float = Field(
            0.0, ge=0, lt=1, description="share of rows whose last block training leaves out, less for earlier blocks"
        )
        guidance_ramp: bool = Field(
            True, description="guidance grows linearly with the scale, from none to what is asked for; or is constant"
        )
        task_tokens: bool = Field(
            True, description="a learnt vector a task is part of the condition; published models know one task each"
        )
        condition_dropout: float = Field(
            0.0, ge=0, lt=1, description="share of training rows without what the encoder says, which guidance needs"
        )

    def __init__(self, config: Config, shapes: Shapes, encoder: Encoder | None) -> None:
        super().__init__()
        if shapes.spec is None:
            raise CynosureError("prior next_scale needs a tokenizer: give the recipe model.tokenizer, or no prior.")
        if encoder is None and not config.task_tokens:
            raise ValueError(
                "prior next_scale: without encoder and task_tokens nothing comes first; set task_tokens: true"
            )
        self.config, self.spec = config, shapes.spec
        self.sides = _sides(self.spec)
        dim, count = config.dim, len(self.sides)
        tasks = shapes.channels if config.task_tokens else ()
        self.prefix = Prefix(dim, tasks, encoder.dim if encoder else None, config.condition_dropout)
        self.embedding = nn.Linear(shapes.code_dim, dim) if count > 1 else None
        self.scales = nn.Embedding(count, dim)
        self.positions = nn.Parameter(torch.randn(1, self.spec.length, dim) * INITIAL_STD)
        self.blocks = nn.ModuleList(
            AdaptiveBlock(dim, config.heads, config.mlp_dim, config.drop_path * i / max(1, config.depth - 1))
            for i in range(config.depth)
        )
        self.norm = AdaptiveNorm(dim)
        self.head = nn.Linear(dim, self.spec.vocab_size)
        self._initialize()
        self.encoder = encoder
        self.scale_of: torch.Tensor
        """The number of the scale of every code, int64 [L]."""
        scale_of = [number for number, side in enumerate(self.sides) for _ in range(side**2)]
        self.register_buffer("scale_of", torch.tensor(scale_of), persistent=False)
        self._quantizer: list[Multiscale] = []  # in a list, so that it is no part of the prior

    def _initialize(self) -> None:
        """Blocks begin as almost nothing, and all codes as almost equally likely."""
        initialize(self)
        dim = self.config.dim
        with torch.no_grad():
            for block in self.blocks:
                gates_and_others = cast(AdaptiveBlock, block).modulation.weight.view(2, 3, dim, dim)
                gates_and_others[:, 0] *= FIRST_GATE
                gates_and_others[:, 1:] *= FIRST_SCALE

    def attach(self, tokenizer: Tokenizer) -> None:
        """Raises CynosureError for a tokenizer whose quantizer has no scales."""
        quantizer = tokenizer.quantizer
        if not isinstance(quantizer, Multiscale) or tuple(quantizer.scales) != self.sides:
            raise _no_scales()
        self._quantizer = [quantizer]

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        logits = self.logits(inputs, codes.ids.flatten(1), task)
        return {"nll": F.cross_entropy(logits.flatten(0, 1).float(), codes.ids.flatten())}

    def logits(self, inputs: Mapping[str, Any], tokens: torch.Tensor, task: str) -> torch.Tensor:
        """Teacher-forced logits [B, L, K] of codes [B, L]: those of a scale read the codes of coarser scales only."""
        context, condition = self._condition(inputs, len(tokens), task)
        x = self._start(condition)
        if self.embedding is not None:
            with torch.no_grad():
                coarser = self._scales().partials(tokens[..., None])[:, x.shape[1] :]
            x = torch.cat([x, self.embedding(coarser).to(x.dtype)], 1)
        x = torch.cat([context, self._place(x, 0)], 1)
        scale_of = F.pad(self.scale_of, (context.shape[1], 0), value=-1)
        x = self._run(x, self._modulate(condition), mask=scale_of[:, None] >= scale_of)
        return self.head(self.norm(x[:, context.shape[1] :], condition))

    @torch.no_grad()
    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        ids = torch.zeros(len(seeds), self.spec.length, dtype=torch.long, device=seeds.device)
        with sampling(self.blocks, self.norm, self.head):  # the ids were made outside, so that training may use them
            self._write(ids, inputs, task, settings, row_uniforms(seeds, self.spec.length))
        return Codes(ids[..., None], self.spec)

    def _write(
        self,
        ids: torch.Tensor,
        inputs: Mapping[str, Any],
        task: str,
        settings: SampleSettings,
        uniforms: torch.Tensor,
    ) -> None:
        """Fill ids [B, L] scale by scale, with a uniform [B, L] for each."""
        batch, total = ids.shape
        context, condition = self._condition(inputs, batch, task, settings.guidance)
        rows, before, dim = context.shape
        modulated = self._modulate(condition)
        size = rows, self.config.heads, before + total, dim // self.config.heads
        caches = [KVCache.empty(*size, like=modulated[0]) for _ in self.blocks]
        if before:
            self._run(context, modulated, caches=caches)
        x, begin = self._start(condition), 0
        for number, side in enumerate(self.sides):
            end = begin + side**2
            if number and self.embedding is not None:
                coarser = self._scales().partial(ids[..., None], number)
                x = self.embedding(coarser).repeat(rows // batch, 1, 1)
            x = self._run(self._place(x, begin), modulated, caches=caches)
            logits = guide(self.head(self.norm(x, condition)), self._guidance(settings.guidance, number))[:batch]
            drawn = draw(logits.flatten(0, 1), settings, uniforms[:, begin:end].flatten()).view(batch, -1)
            if settings.known is not None:
                known = settings.known[:, begin:end, 0]
                drawn = torch.where(known >= 0, known, drawn)
            ids[:, begin:end] = drawn
            begin = end

    def _condition(
        self, inputs: Mapping[str, Any], batch: int, task: str, guidance: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What comes before the codes [B, P, d], and what modulates the blocks [B, d]; 2B rows where guided."""
        context = self.encoder(inputs, task) if self.encoder is not None else None
        prefix = self.prefix(context, batch, task, guidance)
        own = int(task in self.prefix.tasks)
        condition, said = prefix[:, :own].sum(1), prefix[:, own:]
        if said.shape[1]:
            condition = condition + said.mean(1)
        return (said if said.shape[1] > 1 else said[:, :0]), condition

    def _start(self, condition: torch.Tensor) -> torch.Tensor:
        """What the first scale reads, [B, s², d]."""
        return condition[:, None].expand(-1, self.sides[0] ** 2, -1)

    def _place(self, x: torch.Tensor, begin: int) -> torch.Tensor:
        """x [B, n, d] of the codes that begin at number `begin`, with their positions and scales."""
        here = slice(begin, begin + x.shape[1])
        return x + self.positions[:, here] + self.scales(self.scale_of[here])

    def _modulate(self, condition: torch.Tensor) -> list[torch.Tensor]:
        return [cast(AdaptiveBlock, block).modulate(condition) for block in self.blocks]

    def _run(
        self,
        x: torch.Tensor,
        modulated: list[torch.Tensor],
        mask: torch.Tensor | None = None,
        caches: list[KVCache] | None = None,
    ) -> torch.Tensor:
        """Tokens [B, N, d], with caches the next ones, through all blocks."""
        for i, block in enumerate(self.blocks):
            x = block(x, modulated[i], mask, caches[i] if caches else None)
        return x

    def _guidance(self, guidance: float, number: int) -> float:
        """The guidance of scale `number`."""
        if not self.config.guidance_ramp or len(self.sides) == 1:
            return guidance
        return 1 + (guidance - 1) * number / (len(self.sides) - 1)

    def _scales(self) -> Multiscale:
        if not self._quantizer:
            raise CynosureError("prior next_scale reads the tokenizer's codewords: call attach(tokenizer) first.")
        return self._quantizer[0]


def _sides(spec: CodeSpec) -> tuple[int, ...]:
    """Rows of every scale."""
    sides = tuple(math.isqrt(segment.length) for segment in spec.segments)
    if spec.depth > 1 or [side**2 for side in sides] != [segment.length for segment in spec.segments]:
        raise _no_scales()
    return sides


def _no_scales() -> CynosureError:
    return CynosureError(
        "prior next_scale needs codes of several scales: use quantizer multiscale in the tokenizer, or prior masked."
    )


@hookimpl
def cynosure_register(register: Any) -> None:
    register.prior("next_scale", NextScale)
