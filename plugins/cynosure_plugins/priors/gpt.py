"""The decoder-only transformer prior of VQGAN: context first, then codes one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.blocks import Block, KVCache
from cynosure.core.contracts import Encoder, PartConfig, Prior
from cynosure.core.decoding import draw, outside, row_uniforms
from cynosure.core.guidance import guide
from cynosure.core.packing import sampling
from cynosure.core.records import Codes, SampleSettings, Shapes
from cynosure.errors import CynosureError
from cynosure_plugins.priors.prefix import Prefix, initialize

NORM_EPS = 1e-5


@final
class GPT(Prior):
    """p(z | x) as a product over codes, with x as the prefix of one sequence (Esser et al. 2021, section 3.2).

    Position i belongs to the token that predicts code i: to the last vector of the prefix for code 0; the vectors
    before it have only the positions that their encoder gave them. Codes of depth D > 1 are written position by
    position, depth first; every code keeps to its own K.

    Raises ValueError for options that contradict each other.
    """

    class Config(PartConfig):
        dim: int = Field(1024, ge=1, description="width of the transformer")
        depth: int = Field(24, ge=1, description="transformer blocks")
        heads: int = Field(16, ge=1)
        mlp_dim: int = Field(4096, ge=1)
        dropout: float = Field(0.0, ge=0, lt=1, description="of embeddings, attention and what blocks add")
        keep: float = Field(
            1.0, ge=0, le=1, description="share of codes that training reads as they are, the others become random"
        )
        two_way_prefix: bool = Field(False, description="the vectors of the prefix all see each other")
        task_tokens: bool = Field(
            True, description="a learnt vector a task begins the prefix; published models know one task each"
        )
        condition_dropout: float = Field(
            0.0, ge=0, lt=1, description="share of training rows without what the encoder says, which guidance needs"
        )

    def __init__(self, config: Config, shapes: Shapes, encoder: Encoder | None) -> None:
        super().__init__()
        if shapes.spec is None:
            raise CynosureError("prior gpt needs a tokenizer: give the recipe model.tokenizer, or no prior.")
        if encoder is None and not config.task_tokens:
            raise ValueError("prior gpt: without encoder and task_tokens nothing comes first; set task_tokens: true")
        self.config = config
        self.spec = shapes.spec
        tokens, dim = self.spec.length * self.spec.depth, config.dim
        tasks = shapes.channels if config.task_tokens else ()
        self.prefix = Prefix(dim, tasks, encoder.dim if encoder else None, config.condition_dropout)
        self.embedding = nn.Embedding(self.spec.vocab_size, dim)
        self.positions = nn.Parameter(torch.zeros(1, tokens, dim))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_dim, NORM_EPS, "none", dropout=config.dropout)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim, self.spec.vocab_size, bias=False)
        initialize(self)
        self.encoder = encoder
        self.outside: torch.Tensor | None
        self.register_buffer("outside", outside(self.spec), persistent=False)
        self.limits: torch.Tensor
        self.register_buffer("limits", self.spec.limits().flatten(), persistent=False)

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        tokens = codes.ids.flatten(1)
        logits = self.logits(inputs, self._corrupt(tokens), task)
        total = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="sum")
        return {"nll": total / (len(tokens) * codes.spec.real)}

    def logits(self, inputs: Mapping[str, Any], tokens: torch.Tensor, task: str) -> torch.Tensor:
        """Teacher-forced logits [B, L*D, K] of codes [B, L*D], -inf where a code does not exist."""
        prefix = self._prefix(inputs, len(tokens), task)
        x = torch.cat([prefix, self._embed(tokens[:, :-1])], 1)
        logits = self._run(x, prefix.shape[1])[:, prefix.shape[1] - 1 :]
        return logits if self.outside is None else logits.masked_fill(self.outside, -torch.inf)

    @torch.no_grad()
    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        tokens = torch.empty(len(seeds), len(self.limits), dtype=torch.long, device=seeds.device)
        with sampling(self.blocks, self.head):  # the tokens were made outside, so that training may use them
            self._write(tokens, inputs, task, settings, row_uniforms(seeds, tokens.shape[1]))
        return Codes(tokens.view(-1, self.spec.length, self.spec.depth), self.spec)

    def _write(
        self,
        tokens: torch.Tensor,
        inputs: Mapping[str, Any],
        task: str,
        settings: SampleSettings,
        uniforms: torch.Tensor,
    ) -> None:
        """Fill tokens [B, L*D] one after another, with a uniform [B, L*D] for each."""
        batch, total = tokens.shape
        x = self._prefix(inputs, batch, task, settings.guidance)
        rows, prefix = x.shape[:2]
        size = rows, self.config.heads, prefix + total - 1, self.config.dim // self.config.heads
        caches = [KVCache.empty(*size, like=x) for _ in self.blocks]
        known = settings.known.flatten(1) if settings.known is not None else None
        for i in range(total):
            logits = guide(self._run(x, prefix, caches)[:, -1], settings.guidance)
            if self.outside is not None:
                logits = logits.masked_fill(self.outside[i], -torch.inf)
            token = draw(logits, settings, uniforms[:, i], i % self.spec.depth)
            tokens[:, i] = token if known is None else torch.where(known[:, i] >= 0, known[:, i], token)
            x = self._embed(tokens[:, i : i + 1], i).repeat(rows // batch, 1, 1)

    def _run(self, x: torch.Tensor, prefix: int, caches: list[KVCache] | None = None) -> torch.Tensor:
        """Embedded tokens [B, N, d], with caches the next ones -> logits [B, N, K]."""
        two_way = prefix if self.config.two_way_prefix else 0
        for i, block in enumerate(self.blocks):
            x = block(x, True, caches[i] if caches else None, two_way)
        return self.head(self.norm(x))

    def _prefix(self, inputs: Mapping[str, Any], batch: int, task: str, guidance: float = 1.0) -> torch.Tensor:
        context = self.encoder(inputs, task) if self.encoder is not None else None
        prefix = self.prefix(context, batch, task, guidance)
        last = prefix[:, -1:] + self.positions[:, :1]
        return self.dropout(torch.cat([prefix[:, :-1].to(last.dtype), last], 1))

    def _embed(self, tokens: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Codes [B, n] of which the first is code `first` -> [B, n, d]."""
        places = self.positions[:, first + 1 : first + 1 + tokens.shape[1]]
        return self.dropout(self.embedding(tokens) + places)

    def _corrupt(self, tokens: torch.Tensor) -> torch.Tensor:
        """In training, codes [B, L*D] of which all but a share `keep` are random ones of the same place."""
        if not self.training or self.config.keep == 1:
            return tokens
        kept = torch.rand(tokens.shape, device=tokens.device) < self.config.keep
        random = (torch.rand(tokens.shape, device=tokens.device) * self.limits).long()
        return torch.where(kept, tokens, random)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.prior("gpt", GPT)
