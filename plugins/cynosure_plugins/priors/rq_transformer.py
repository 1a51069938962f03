"""The RQ-Transformer: one transformer over positions, a small one over the depths of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, final

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.blocks import Block, KVCache, positions, zero_initialized
from cynosure.core.contracts import Encoder, PartConfig, Prior, Tokenizer
from cynosure.core.decoding import draw, outside, row_uniforms
from cynosure.core.guidance import guide
from cynosure.core.packing import sampling
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Shapes, SoftTargets
from cynosure.errors import CynosureError
from cynosure_plugins.priors.prefix import Prefix

NORM_EPS = 1e-5


@final
class RQTransformer(Prior):
    """p(z | x) as a product over positions, and over depths within each (Lee et al. 2022, section 3.2).

    The body reads the context, then for every position the sum of its code vectors; what it says of the next position
    goes to the head, which reads the sum of the codes so far and predicts the next depth. A position vector is that of
    the position read, so the last one is never used. No norm follows the body, and one precedes the classifier. The
    published models are `task_tokens: false` with encoder `label`, or `bpe` with depth 0 and `text_loss`, for which the
    body predicts the text, too. Weights begin as UViM's here, with a classifier of zeros; published code leaves them to
    torch's defaults, classes N(0, 1), positions N(0, 0.02).

    Raises ValueError for options that contradict each other or the codes.
    """

    class Config(PartConfig):
        dim: int = Field(1536, ge=1, description="width of body and head")
        depth: int = Field(12, ge=1, description="blocks of the body, over positions")
        head_depth: int = Field(4, ge=0, description="blocks of the head, over the depths of a position")
        heads: int = Field(24, ge=1)
        mlp_dim: int = Field(6144, ge=1)
        dropout: float = Field(0.0, ge=0, lt=1, description="of what blocks add, in training; published: 0.1")
        embedding: Literal["codebook", "shared", "separate"] = Field(
            "codebook",
            description="codes are read as the tokenizer's own frozen codewords, or from a table of the"
            " prior's, one for all depths or one each",
        )
        cumulative: bool = Field(True, description="the head reads the sum of all codes so far, or the last one only")
        classifiers: Literal["shared", "separate"] = Field("shared", description="one for all depths, or one each")
        soft_temperature: float | None = Field(
            None,
            gt=0,
            description="train on softmax(-distance² / this) of the tokenizer's vectors; null on its codes;"
            " published: 0.5",
        )
        stochastic: bool = Field(True, description="with soft_temperature, codes are drawn too, not the nearest")
        text_loss: float = Field(
            0.0,
            ge=0,
            description="weight of predicting each token of the text from those before it, where codes have 1; for"
            " encoder text or bpe with depth 0; published: 1/9",
        )
        task_tokens: bool = Field(
            True, description="a learnt vector a task begins the context; the published models know one task each"
        )
        condition_dropout: float = Field(
            0.0, ge=0, lt=1, description="share of training rows without what the encoder says, which guidance needs"
        )

    def __init__(self, config: Config, shapes: Shapes, encoder: Encoder | None) -> None:
        super().__init__()
        if shapes.spec is None:
            raise CynosureError("prior rq_transformer needs a tokenizer: give the recipe model.tokenizer, or no prior.")
        _check(config, shapes.spec, encoder)
        self.config, self.spec, self.encoder = config, shapes.spec, encoder
        if config.soft_temperature is not None:
            self.soft_targets = SoftTargets(config.soft_temperature, config.stochastic)
        dim, K, D = config.dim, self.spec.vocab_size, self.spec.depth
        named = shapes.channels if config.task_tokens else ()
        self.prefix = Prefix(dim, named, encoder.dim if encoder else None, config.condition_dropout)
        self.embedding: nn.Embedding | None = None
        self.body_input: nn.Linear | None = None
        self.head_input: nn.Linear | None = None
        if config.embedding == "codebook":
            self.body_input = nn.Linear(shapes.code_dim, dim)
            self.head_input = nn.Linear(shapes.code_dim, dim)
        else:
            self.embedding = nn.Embedding(K * (D if config.embedding == "separate" else 1), dim)
            nn.init.normal_(self.embedding.weight, std=0.02)
        self.positions = positions(self.spec.length, dim)
        self.depths = positions(D, dim)
        self.body, self.head = _blocks(config, config.depth), _blocks(config, config.head_depth)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        classifiers = D if config.classifiers == "separate" else 1
        self.classifiers = nn.ModuleList(zero_initialized(nn.Linear(dim, K)) for _ in range(classifiers))
        self.text_head: nn.Sequential | None = None
        if config.text_loss and encoder is not None and encoder.vocab_size is not None:
            classify = zero_initialized(nn.Linear(dim, encoder.vocab_size))
            self.text_head = nn.Sequential(nn.LayerNorm(dim, eps=NORM_EPS), classify)
        absent = outside(self.spec)
        self.outside: torch.Tensor | None
        self.register_buffer(
            "outside", None if absent is None else absent.view(self.spec.length, D, K), persistent=False
        )
        self._tokenizer: list[Tokenizer] = []  # in a list, so that it is no part of the prior

    def attach(self, tokenizer: Tokenizer) -> None:
        """Raises CynosureError where `embedding: codebook` meets a tokenizer whose codes have no codewords."""
        if self.config.embedding == "codebook":
            tokenizer.quantizer.code_vectors()
            self._tokenizer = [tokenizer]

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        """`nll`, against the probabilities of the codes where they come with some; `text`, with its weight."""
        read, vectors = self._read(inputs, codes.ids, task)
        losses = {"nll": self._nll(self._predict(read, vectors), codes)}
        if self.text_head is not None and self.encoder is not None:
            tokens = self.encoder.tokens(inputs, task)
            logits = self.text_logits(read, tokens.shape[1]).flatten(0, 1).float()
            losses["text"] = self.config.text_loss * F.cross_entropy(logits, tokens[:, 1:].flatten())
        return losses

    def _nll(self, logits: torch.Tensor, codes: Codes) -> torch.Tensor:
        logits = logits.flatten(0, 2).float()
        if codes.probabilities is not None:
            return F.cross_entropy(logits, codes.probabilities.flatten(0, 2))
        total = F.cross_entropy(logits, codes.ids.flatten(), reduction="sum")
        return total / (len(codes.ids) * codes.spec.real)

    def logits(self, inputs: Mapping[str, Any], tokens: torch.Tensor, task: str) -> torch.Tensor:
        """Teacher-forced logits [B, L*D, K] of codes [B, L*D], depth first."""
        ids = tokens.unflatten(1, (self.spec.length, self.spec.depth))
        return self._predict(*self._read(inputs, ids, task)).flatten(1, 2)

    def text_logits(self, read: torch.Tensor, tokens: int) -> torch.Tensor:
        """Logits [B, N - 1, V] of all `tokens` N of the text but the first, from what `_read` says."""
        assert self.text_head is not None
        length = self.spec.length
        return self.text_head(read[:, -length - tokens + 1 : -length])

    def _read(self, inputs: Mapping[str, Any], ids: torch.Tensor, task: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids [B, L, D] -> what the body says [B, P - 1 + L, d] after a context of P vectors, and code vectors
        [B, L, D, e]."""
        D = ids.shape[2]
        table, stride = self._codewords()
        vectors = F.embedding(ids + stride * torch.arange(D, device=ids.device), table)
        prefix = self._prefix(inputs, len(ids), task)
        read = _project(self.body_input, vectors[:, :-1].sum(2), times=D) + self.positions[:, :-1]
        x = torch.cat([prefix, read.to(prefix.dtype)], 1)
        for block in self.body:
            x = block(x, causal=True)
        return x, vectors

    def _predict(self, read: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """What `_read` returns -> logits [B, L, D, K]."""
        B, L = vectors.shape[:2]
        before = (vectors.cumsum(2) if self.config.cumulative else vectors)[:, :, :-1]
        x = torch.cat([read[:, -L:, None], _project(self.head_input, before).to(read.dtype)], 2) + self.depths
        x = x.flatten(0, 1)
        for block in self.head:
            x = block(x, causal=True)
        x = self.norm(x.unflatten(0, (B, L)))
        if len(self.classifiers) == 1:
            logits = self.classifiers[0](x)
        else:
            logits = torch.stack([classify(x[:, :, i]) for i, classify in enumerate(self.classifiers)], 2)
        return logits if self.outside is None else logits.masked_fill(self.outside, -torch.inf)

    @torch.no_grad()
    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        L, D = self.spec.length, self.spec.depth
        ids = torch.empty(len(seeds), L, D, dtype=torch.long, device=seeds.device)
        uniforms = row_uniforms(seeds, L * D).view(-1, L, D)
        with sampling(self.body, self.head, self.classifiers):  # ids made outside, so that training may use them
            self._write(ids, inputs, task, settings, uniforms)
        return Codes(ids, self.spec)

    def _write(
        self,
        ids: torch.Tensor,
        inputs: Mapping[str, Any],
        task: str,
        settings: SampleSettings,
        uniforms: torch.Tensor,
    ) -> None:
        """Fill ids [B, L, D] position by position, with a uniform [B, L, D] for each code."""
        B, L, D = ids.shape
        x = self._prefix(inputs, B, task, settings.guidance)
        table = self._codewords()
        body = self._caches(self.body, x, x.shape[1] + L - 1)
        head = self._caches(self.head, x, D)
        for i in range(L):
            for block, cache in zip(self.body, body, strict=True):
                x = block(x, causal=True, cache=cache)
            total = self._write_position(i, x[:, -1:], ids, settings, uniforms, table, head)
            x = _project(self.body_input, total, times=D) + self.positions[:, i : i + 1]

    def _write_position(
        self,
        i: int,
        x: torch.Tensor,
        ids: torch.Tensor,
        settings: SampleSettings,
        uniforms: torch.Tensor,
        table: tuple[torch.Tensor, int],
        caches: list[KVCache],
    ) -> torch.Tensor:
        """Fill ids[:, i] given what the body says of it, x [B, 1, d]; returns the sum of their vectors [B, 1, e]."""
        codewords, stride = table
        total = codewords.new_zeros(len(x), 1, codewords.shape[1])
        for cache in caches:
            cache.length = 0
        for depth in range(self.spec.depth):
            x = x + self.depths[:, depth : depth + 1]
            for block, cache in zip(self.head, caches, strict=True):
                x = block(x, causal=True, cache=cache)
            classify = self.classifiers[depth % len(self.classifiers)]
            logits = guide(classify(self.norm(x[:, 0])), settings.guidance)
            if self.outside is not None:
                logits = logits.masked_fill(self.outside[i, depth], -torch.inf)
            code = draw(logits, settings, uniforms[:, i, depth], depth)
            if settings.known is not None:
                known = settings.known[:, i, depth]
                code = torch.where(known >= 0, known, code)
            ids[:, i, depth] = code
            vector = F.embedding(code + depth * stride, codewords)[:, None].repeat(len(x) // len(ids), 1, 1)
            total = total + vector
            if depth + 1 < self.spec.depth:
                x = _project(self.head_input, total if self.config.cumulative else vector)
        return total

    def _prefix(self, inputs: Mapping[str, Any], batch: int, task: str, guidance: float = 1.0) -> torch.Tensor:
        context = self.encoder(inputs, task) if self.encoder is not None else None
        return self.prefix(context, batch, task, guidance)

    def _codewords(self) -> tuple[torch.Tensor, int]:
        """Vectors by code [K or D*K, e], and how far apart the rows of one code at neighbouring depths are."""
        if self.embedding is not None:
            table = self.embedding.weight
        elif self._tokenizer:
            table = self._tokenizer[0].quantizer.code_vectors().detach().flatten(0, 1)
        else:
            raise CynosureError(
                "prior rq_transformer reads the tokenizer's codewords: call attach(tokenizer) first, or set embedding "
                "to separate."
            )
        K = self.spec.vocab_size
        return table, K if len(table) > K else 0

    def _caches(self, blocks: nn.ModuleList, x: torch.Tensor, tokens: int) -> list[KVCache]:
        heads = self.config.heads
        like = cast(Block, self.body[0]).attention.qkv(x[:, :1])  # autocast may change the type of keys
        return [KVCache.empty(len(x), heads, tokens, self.config.dim // heads, like) for _ in blocks]


def _blocks(config: RQTransformer.Config, count: int) -> nn.ModuleList:
    blocks = [
        Block(config.dim, config.heads, config.mlp_dim, eps=NORM_EPS, gelu="none", dropout=config.dropout)
        for _ in range(count)
    ]
    for block in blocks:
        block.attention.dropout = 0.0  # as published: only what blocks add is dropped
    return nn.ModuleList(blocks)


def _project(layer: nn.Linear | None, x: torch.Tensor, times: int = 1) -> torch.Tensor:
    """What `layer` makes of each of the `times` summands of x, summed: the bias counts for all of them."""
    return x if layer is None else F.linear(x, layer.weight, times * layer.bias)


def _check(config: RQTransformer.Config, spec: CodeSpec, encoder: Encoder | None) -> None:
    """Raises ValueError with every reason why this prior cannot be."""
    spelled = encoder is not None and encoder.vocab_size is not None
    reasons = {
        "without encoder and task_tokens nothing comes first; set task_tokens: true": encoder is None
        and not config.task_tokens,
        "text_loss needs an encoder that reads tokens one by one: take text or bpe, with depth 0": config.text_loss > 0
        and not spelled,
        "soft_temperature needs one vocabulary for all codes; set it to null": config.soft_temperature is not None
        and outside(spec) is not None,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ValueError(f"prior rq_transformer: {'. '.join(found)}")


@hookimpl
def cynosure_register(register: Any) -> None:
    register.prior("rq_transformer", RQTransformer)
