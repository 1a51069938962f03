"""Residual quantisation: D codes a vector, each naming what the codewords before it left over."""

from __future__ import annotations

import copy
from typing import Any, Literal, final

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.contracts import Quantizer
from cynosure.core.records import Quantized
from cynosure.errors import TrainingError
from cynosure_plugins.quantizers.codebook import Search, count_by_code, require_width
from cynosure_plugins.quantizers.gradients import straight_through
from cynosure_plugins.quantizers.learning import Codebook, CodebookConfig, Update


def draw(probabilities: torch.Tensor) -> torch.Tensor:
    """One code for every row: probabilities [M, K] -> int64 [M]."""
    return probabilities.multinomial(1)[:, 0]


@final
class ResidualQuantizer(Quantizer):
    """RQ-VAE (Lee et al. 2022, section 3.1); with separate codebooks the RVQ of SoundStream (Zeghidour et al. 2021).

    Depth d takes the codeword nearest to what depths before d left of the vector; the sum of all is the answer. The
    commitment loss is the mean over depths of the squared error of the sum so far, times its weight.

    Like all quantizers it collects in `forward` and learns in `learn`, so all depths of a step search the same state of
    a shared codebook. The released RQ-VAE changes it after every depth, and depth d + 1 searches the changed one:
    `immediate` does that, on a copy that `learn` makes the codebook. `min_count: 100` with `decay: 0.99` is its restart
    rule, one vector a step, but for the first one: published counts begin at 0, so that it restarts every code of fewer
    than 100 vectors, where here a code goes on that has one.
    """

    class Config(CodebookConfig):
        vocab_size: int = Field(16384, ge=1, description="K, codewords in a codebook")
        dim: int = Field(256, ge=1, description="d, width of the vectors")
        depth: int = Field(4, ge=1, description="D, codes a vector")
        shared: bool = Field(True, description="one codebook for all depths, or one each")
        update: Update = Field(
            "ema",
            description="how codewords learn: totals (discounted sums), ema (with Laplace smoothing), gradient, or"
            " simvq (frozen random codewords times one linear layer learnt by gradient)",
        )
        decay: float = Field(0.99, ge=0, lt=1, description="factor on the totals before a step's vectors are added")
        replace: Literal["split", "restart"] = Field(
            "restart", description="unused codewords become a copy of the most used one, or a random residual"
        )
        immediate: bool = Field(
            False,
            description="a shared codebook changes after every depth, as in the released RQ-VAE; micro-batches of a"
            " step then meet different codebooks",
        )
        commitment: float = Field(0.25, ge=0, description="weight of the pull of vectors to the sums of codewords")
        depth_dropout: float = Field(
            0.0,
            ge=0,
            le=1,
            description="share of training rows that go on with their first codes only, a random number of them:"
            " one model then decodes any number of depths",
        )

        @model_validator(mode="after")
        def _combinations(self) -> Any:
            if self.immediate and self.update not in ("totals", "ema"):
                raise ValueError("immediate needs update: ema or totals; gradients come once a step")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vocab_size, self.dim, self.depth = config.vocab_size, config.dim, config.depth
        self.codebooks = nn.ModuleList(Codebook(config, self.dim) for _ in range(1 if config.shared else self.depth))
        self._ahead: list[nn.ModuleList] = []  # the copy that `immediate` changes; in a list, so that it is no part

    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> sums of codewords float32 [B, N, d] with a gradient, ids int64 [B, N, D], losses."""
        require_width(vectors, self.dim)
        with torch.autocast(vectors.device.type, enabled=False):
            return self._quantize(vectors.float())

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, N, D] -> vectors [B, N, d]."""
        return self.partial(ids, self.depth)

    def partial(self, ids: torch.Tensor, depth: int, kind: Literal["add", "select"] = "add") -> torch.Tensor:
        """Ids int64 [B, N, D or fewer] -> [B, N, d]: the sum of the first `depth` codewords, or the `depth`-th alone.

        `depth` is in [1, D].
        """
        parts = self.by_depth(ids[..., :depth]).unbind(dim=2)
        return parts[-1] if kind == "select" else sum(parts[1:], parts[0])

    def by_depth(self, ids: torch.Tensor) -> torch.Tensor:
        """The codeword of every code: ids int64 [B, N, D or fewer] -> [B, N, D or fewer, d]."""
        if self.config.shared:
            return F.embedding(ids, self._book(0).codewords)
        return torch.stack([F.embedding(ids[..., i], self._book(i).codewords) for i in range(ids.shape[-1])], dim=2)

    def code_vectors(self) -> torch.Tensor:
        """Float32 [D, K, d], or [1, K, d] of a shared codebook."""
        return torch.stack([self._book(depth).codewords for depth in range(len(self.codebooks))])

    def soft_codes(
        self, vectors: torch.Tensor, temperature: float = 1.0, stochastic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids int64 [B, N, D] of vectors [B, N, d] and how likely each code was, float32 [B, N, D, K].

        softmax(-distance² / temperature); codes are the nearest or, `stochastic`, drawn from these probabilities, and
        the residual follows the code that was taken (Lee et al. 2022, section 3.2.3, trains priors so).
        """
        residual = vectors.detach().float().flatten(0, 1)
        ids, soft = [], []
        with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
            for depth in range(self.depth):
                codewords = self._book(depth).codewords
                squares = codewords.square().sum(dim=1)
                distances = torch.addmm(squares, residual, codewords.t(), alpha=-2)
                soft.append(F.softmax(-distances / temperature, dim=-1))
                ids.append(draw(soft[-1]) if stochastic else distances.argmin(dim=-1))
                residual = residual - F.embedding(ids[-1], codewords)
        shape = vectors.shape[:2]
        return torch.stack(ids, dim=1).unflatten(0, shape), torch.stack(soft, dim=1).unflatten(0, shape)

    def _book(self, depth: int, ahead: bool = False) -> Codebook:
        books = self._ahead[0] if ahead else self.codebooks
        book = books[depth % len(books)]
        assert isinstance(book, Codebook)
        return book

    def _quantize(self, vectors: torch.Tensor) -> Quantized:
        ahead = self.training and self.config.immediate
        if ahead and not self._ahead:
            self._ahead.append(copy.deepcopy(self.codebooks))
        residual = vectors.detach().flatten(0, 1)
        total = passed = torch.zeros_like(vectors)
        last = self._last_depths(vectors)
        ids: list[torch.Tensor] = []
        losses: dict[str, list[torch.Tensor]] = {}
        usage = torch.zeros(self.vocab_size, dtype=torch.int64, device=vectors.device)
        codewords = self._book(0, ahead).codewords
        search = Search(codewords)
        for depth in range(self.depth):
            book = self._book(depth, ahead)
            if depth and (ahead or not self.config.shared):
                codewords = book.codewords
                search = Search(codewords)
            found = search(residual)
            chosen = F.embedding(found, codewords)
            count = count_by_code(found, self.vocab_size)
            if self.training:
                book.collect(residual, found, count)
                if ahead:
                    book.learn()
            residual = residual - chosen.detach()
            total = total + chosen.view_as(vectors)
            passed = total if last is None else torch.where(last >= depth, total, passed)
            ids.append(found.view(vectors.shape[:-1]))
            usage += count
            for name, loss in self._losses(vectors, total).items():
                losses.setdefault(name, []).append(loss)
        means = {name: torch.stack(by_depth).mean() for name, by_depth in losses.items()}
        return Quantized(straight_through(vectors, passed), torch.stack(ids, dim=-1), means, usage)

    def _losses(self, vectors: torch.Tensor, total: torch.Tensor) -> dict[str, torch.Tensor]:
        """Those of one depth, of the sum so far [B, N, d]."""
        losses = {}
        if self.config.commitment:
            losses["commitment"] = self.config.commitment * (vectors - total.detach()).square().mean()
        if self.config.update in ("gradient", "simvq"):
            losses["codebook"] = (total - vectors.detach()).square().mean()
        return losses

    def _last_depths(self, vectors: torch.Tensor) -> torch.Tensor | None:
        """The last depth of each row that passes on, [B, 1, 1]; None without depth dropout: all do."""
        if not self.training or self.config.depth_dropout == 0:
            return None
        drop = torch.rand(len(vectors), device=vectors.device) < self.config.depth_dropout
        last = torch.where(drop, torch.randint(self.depth, (len(vectors),), device=drop.device), self.depth - 1)
        return last[:, None, None]

    @torch.no_grad()
    def learn(self) -> None:
        if self._ahead:
            self.codebooks.load_state_dict(self._ahead.pop().state_dict())
        books = [self._book(depth) for depth in range(len(self.codebooks))]
        try:
            for book in books:
                book.learn()
        except TrainingError:
            for book in books:
                book.forget()
            raise


@hookimpl
def cynosure_register(register: Any) -> None:
    register.quantizer("rq", ResidualQuantizer)
