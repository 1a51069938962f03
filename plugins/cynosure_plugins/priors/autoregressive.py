"""The code language model of UViM: an encoder-decoder transformer that writes codes one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, final

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.blocks import NORM_EPS, DecoderBlock, KVCache, zero_initialized
from cynosure.core.contracts import Encoder, PartConfig, Prior
from cynosure.core.decoding import draw, row_uniforms
from cynosure.core.records import Codes, SampleSettings, Shapes
from cynosure.errors import CynosureError


@final
class Autoregressive(Prior):
    """p(z | x) as a product over positions (Kolesnikov et al. 2022, section 2.4).

    Each task has its own start token, and a token of its own that decoder positions attend to beside the image.
    Codes of depth D > 1 are written position by position, depth first; every position keeps to its segment's K.

    Raises ValueError for label smoothing where segments differ in K.
    """

    class Config(PartConfig):
        dim: int = Field(1024, ge=1, description="width of the decoder")
        depth: int = Field(24, ge=1, description="decoder blocks")
        heads: int = Field(16, ge=1)
        mlp_dim: int = Field(4096, ge=1)
        label_smoothing: float = Field(0.0, ge=0, lt=1)

    def __init__(self, config: Config, shapes: Shapes, encoder: Encoder | None) -> None:
        super().__init__()
        if shapes.spec is None:
            raise CynosureError("prior autoregressive needs a tokenizer: give the recipe model.tokenizer, or no prior.")
        self.config = config
        self.spec = shapes.spec
        self.encoder = encoder
        tokens, dim = self.spec.length * self.spec.depth, config.dim
        self.embedding = nn.Embedding(self.spec.vocab_size, dim)
        self.starts = nn.ParameterDict({t: nn.Parameter(torch.randn(dim)) for t in shapes.channels})
        context_dim = encoder.dim if encoder else dim
        self.tasks = nn.ParameterDict({t: nn.Parameter(torch.randn(context_dim) * 0.02) for t in shapes.channels})
        self.positions = nn.Parameter(torch.randn(1, tokens, dim) * dim**-0.5)
        blocks = [DecoderBlock(dim, config.heads, config.mlp_dim, context_dim) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = zero_initialized(nn.Linear(dim, self.spec.vocab_size))
        sizes = torch.tensor([s.vocab_size for s in self.spec.segments for _ in range(s.length * self.spec.depth)])
        outside = torch.arange(self.spec.vocab_size) >= sizes[:, None]
        self.outside: torch.Tensor | None
        self.register_buffer("outside", outside if outside.any() else None, persistent=False)
        if self.outside is not None and config.label_smoothing:
            raise ValueError(
                "prior autoregressive: label_smoothing would spread over codes that a segment does not have; set it to "
                "0 for a tokenizer whose segments differ in vocabulary"
            )

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        tokens = codes.ids.flatten(1)
        logits = self.logits(inputs, tokens, task)
        smoothing = self.config.label_smoothing
        return {"nll": F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), label_smoothing=smoothing)}

    def logits(self, inputs: Mapping[str, Any], tokens: torch.Tensor, task: str) -> torch.Tensor:
        """Teacher-forced logits [B, L*D, K] of tokens [B, L*D]."""
        keys_values = self._project(inputs, len(tokens), task)
        x = torch.cat([self._start(task, len(tokens)), self.embedding(tokens[:, :-1])], 1) + self.positions
        for block, kv in zip(self.blocks, keys_values, strict=True):
            x = block(x, kv)
        logits = self.head(self.norm(x))
        return logits if self.outside is None else logits.masked_fill(self.outside, -torch.inf)

    @torch.no_grad()
    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        B, total = len(seeds), self.spec.length * self.spec.depth
        keys_values = self._project(inputs, B, task)
        x = self._start(task, B)
        head_dim = self.config.dim // self.config.heads
        caches = [KVCache.empty(B, self.config.heads, total, head_dim, kv[0]) for kv in keys_values]
        uniforms = row_uniforms(seeds, total)
        known = settings.known.flatten(1) if settings.known is not None else None
        tokens = torch.empty(B, total, dtype=torch.long, device=seeds.device)
        for i in range(total):
            x = x + self.positions[:, i : i + 1]
            for block, kv, cache in zip(self.blocks, keys_values, caches, strict=True):
                x = block(x, kv, cache)
            logits = self.head(self.norm(x[:, 0]))
            if self.outside is not None:
                logits = logits.masked_fill(self.outside[i], -torch.inf)
            token = draw(logits, settings, uniforms[:, i])
            tokens[:, i] = token if known is None else torch.where(known[:, i] >= 0, known[:, i], token)
            x = self.embedding(tokens[:, i : i + 1])
        return Codes(tokens.view(B, self.spec.length, self.spec.depth), self.spec)

    def _start(self, task: str, batch: int) -> torch.Tensor:
        return self.starts[task].expand(batch, 1, -1)

    def _project(self, inputs: Mapping[str, Any], batch: int, task: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Cross-attention keys and values of every block, computed once for all positions."""
        context = self.tasks[task].expand(batch, 1, -1)
        if self.encoder is not None:
            encoded = self.encoder(inputs, task)
            context = torch.cat([context.to(encoded.dtype), encoded], 1)
        layers = [cast(DecoderBlock, block) for block in self.blocks]
        return [block.cross.project(context) for block in layers]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.prior("autoregressive", Autoregressive)
