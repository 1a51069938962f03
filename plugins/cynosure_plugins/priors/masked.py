"""The masked prior of MaskGIT: all codes at once, the surest first, in a few rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.blocks import Block
from cynosure.core.contracts import Encoder, PartConfig, Prior
from cynosure.core.decoding import draw_all, outside, row_uniforms
from cynosure.core.guidance import copies, guide
from cynosure.core.packing import sampling
from cynosure.core.records import Codes, SampleSettings, Shapes
from cynosure.errors import CynosureError
from cynosure_plugins.encoders.label import read_labels
from cynosure_plugins.priors.masking import MASK, SCHEDULE, gumbel, masked_cross_entropy, random_mask, remask
from cynosure_plugins.priors.prefix import INITIAL_STD, Prefix, initialize

NORM_EPS = 1e-12
PUBLISHED_DIM = 768


@final
class Masked(Prior):
    """p(masked codes | other codes, x) with attention both ways (Chang et al. 2022, MaskGIT).

    One table holds the vectors of codes, `classes`, and the mask, in this order; its transpose is the output layer. A
    class of the table, or what an encoder says, is the prefix of the sequence. Codes of depth D > 1 are L*D codes of
    it; every code keeps to its own K, and one that cannot be anything but 0 is never masked.

    Weights begin at the published scale 0.02 at width 768 and in proportion to width^-1/2, since narrow models that
    begin at 0.02, or learn at less than 2e-3, long know only which codes a picture has, and not where. Noise on
    confidence is in proportion to log K, because the published 4.5 leaves the order of few codes to chance.

    Raises ValueError for options that contradict each other.
    """

    takes_steps = True

    class Config(PartConfig):
        dim: int = Field(768, ge=1, description="width of the transformer")
        depth: int = Field(24, ge=1, description="transformer blocks")
        heads: int = Field(16, ge=1)
        mlp_dim: int = Field(3072, ge=1)
        dropout: float = Field(0.1, ge=0, lt=1, description="of embeddings, attention and what blocks add")
        classes: int = Field(0, ge=0, description="input labels that have a vector of their own; 0 reads no label")
        label_smoothing: float = Field(
            0.0, ge=0, lt=1, description="published: 0.1, which at a small K is that often a wrong code"
        )
        schedule: str = Field(
            "cosine", pattern=SCHEDULE, description="masked share by progress: uniform, cosine, log, exp, or pow2.5"
        )
        steps: int = Field(8, ge=1, description="rounds of decoding where sampling does not say")
        edit_start: int = Field(2, ge=0, description="rounds that are left out where some codes are given")
        choice_temperature: float | None = Field(
            None,
            ge=0,
            description="Gumbel noise on how sure the first round is, fading to 0 in the last; published: 4.5 for 1024"
            " codes, null: that in proportion to log K",
        )
        task_tokens: bool = Field(
            True, description="a learnt vector a task begins the prefix; published models know one task each"
        )
        condition_dropout: float = Field(
            0.0, ge=0, lt=1, description="share of training rows without class or context, which guidance needs"
        )

    def __init__(self, config: Config, shapes: Shapes, encoder: Encoder | None) -> None:
        super().__init__()
        if shapes.spec is None:
            raise CynosureError("prior masked needs a tokenizer: give the recipe model.tokenizer, or no prior.")
        if config.classes and encoder is not None:
            raise ValueError("prior masked: it has its own classes; set classes: 0 or leave out the encoder")
        self.config = config
        self.spec = shapes.spec
        tokens, dim = self.spec.length * self.spec.depth, config.dim
        self.table = nn.Embedding(self.spec.vocab_size + config.classes + 1, dim)
        context_dim = encoder.dim if encoder is not None else dim if config.classes else None
        tasks = shapes.channels if config.task_tokens else ()
        self.prefix = Prefix(dim, tasks, context_dim, config.condition_dropout)
        self.positions = nn.Embedding(tokens + (config.classes > 0), dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_dim, NORM_EPS, post_norm=True, dropout=config.dropout)
            for _ in range(config.depth)
        )
        self.dense = nn.Linear(dim, dim)
        self.head_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(self.table.num_embeddings))
        initialize(self, truncate=2, std=INITIAL_STD * math.sqrt(PUBLISHED_DIM / dim))
        noise = config.choice_temperature
        self.choice_temperature = 4.5 * math.log(self.spec.vocab_size, 1024) if noise is None else noise
        self.encoder = encoder
        self.outside: torch.Tensor | None
        self.register_buffer("outside", outside(self.spec, self.table.num_embeddings), persistent=False)
        self.real: torch.Tensor
        """Which codes there are, bool [L*D]; the others are always 0."""
        self.register_buffer("real", self.spec.limits().flatten() > 1, persistent=False)

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        ids = codes.ids.flatten(1)
        masked = random_mask(self.real.expand_as(ids), self.config.schedule)
        prefix = self._prefix(inputs, len(ids), task)
        logits = self.predict(prefix, ids.masked_fill(masked, MASK))
        if self.outside is not None:
            logits = logits.masked_fill(self.outside, -torch.inf)
        smoothing = self.config.label_smoothing if self.training else 0.0
        return {"nll": masked_cross_entropy(logits, ids, masked, smoothing)}

    def predict(self, prefix: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B, L*D, V] of all tokens, even of those that are no code there.

        Given are a prefix [B, P, d] and ids [B, L*D], MASK where unknown.
        """
        places = self.positions.weight[-ids.shape[1] :]
        codes = self.table(ids % self.table.num_embeddings) + places  # MASK is the last row
        x = self.dropout(self.norm(torch.cat([prefix.to(codes.dtype), codes], 1)))
        for block in self.blocks:
            x = block(x)
        x = F.gelu(self.dense(x[:, prefix.shape[1] :]), approximate="tanh")
        return F.linear(self.head_norm(x), self.table.weight, self.bias)

    @torch.no_grad()
    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        with sampling(self.blocks, self.dense):
            ids = self._write(inputs, task, settings, seeds)
        ids = ids.clone()  # outside of inference mode, so that training may use them
        return Codes(ids.view(-1, self.spec.length, self.spec.depth), self.spec)

    def _write(
        self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor
    ) -> torch.Tensor:
        """Codes [B, L*D]."""
        batch, total = len(seeds), len(self.real)
        ids = torch.where(self.real, MASK, 0).expand(batch, -1)
        if settings.known is not None:
            known = settings.known.flatten(1)
            ids = torch.where(known >= 0, known, ids)
        steps = settings.steps or self.config.steps
        start = min(self.config.edit_start, steps - 1) if settings.known is not None else 0
        uniforms = row_uniforms(seeds, steps * 2 * total).view(batch, steps, 2, total)
        prefix = self._prefix(inputs, batch, task, settings.guidance)
        initial, answer = (ids == MASK).sum(1), ids
        for step in range(start, steps):
            logits = self._guided(prefix, ids, settings.guidance)
            drawn = draw_all(logits, settings, uniforms[:, step, 0], self.spec.depth)
            done = (step + 1) / steps
            spread = self.choice_temperature * (1 - done) if settings.temperature > 0 else 0.0
            noise = spread * gumbel(uniforms[:, step, 1])
            answer, ids = remask(logits, ids, drawn, noise, initial, done, self.config.schedule)
        return answer

    def _guided(self, prefix: torch.Tensor, ids: torch.Tensor, guidance: float) -> torch.Tensor:
        """Logits [B, L*D, K] of codes, -inf where one does not exist; prefix has twice the rows of ids for guidance."""
        size = self.spec.vocab_size
        logits = guide(self.predict(prefix, ids.repeat(copies(guidance), 1))[..., :size], guidance)
        return logits if self.outside is None else logits.masked_fill(self.outside[:, :size], -torch.inf)

    def _prefix(self, inputs: Mapping[str, Any], batch: int, task: str, guidance: float = 1.0) -> torch.Tensor:
        """[B, P, d], the last vector with a position of its own if it is a class; twice as many rows for guidance."""
        if not self.config.classes:
            context = self.encoder(inputs, task) if self.encoder is not None else None
            return self.prefix(context, batch, task, guidance)
        labels = read_labels(inputs, self.config.classes, f"prior masked: task '{task}'")
        prefix = self.prefix(self.table(self.spec.vocab_size + labels)[:, None], batch, task, guidance)
        return torch.cat([prefix[:, :-1], prefix[:, -1:] + self.positions.weight[0]], 1)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.prior("masked", Masked)
