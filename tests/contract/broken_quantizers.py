"""A sound quantizer, and quantizers that break their contract in one way each, for test_kit."""

from __future__ import annotations

import torch

from cynosure.core.contracts import PartConfig, Quantizer
from cynosure.core.records import Quantized
from cynosure.errors import CynosureError, TrainingError


class Rounding(Quantizer):
    """A sound quantizer to start from: the sign of the first number chooses one of two codewords."""

    class Config(PartConfig):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vocab_size, self.dim, self.depth = 2, 3, 1
        self.register_buffer("codewords", torch.tensor([[-1.0, 0, 0], [1, 0, 0]]))

    def forward(self, vectors: torch.Tensor) -> Quantized:
        vectors = vectors.float()
        if not bool(vectors.isfinite().all()):
            raise CynosureError("not finite")
        ids = (vectors[..., :1] > 0).long()
        passed = self.lookup(ids) + vectors - vectors.detach()
        return Quantized(passed, ids, {}, torch.bincount(ids.flatten(), minlength=2))

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        return self.codewords[ids[..., 0]]


class NoGradient(Rounding):
    def forward(self, vectors: torch.Tensor) -> Quantized:
        found = super().forward(vectors)
        return Quantized(found.vectors.detach().requires_grad_(), found.ids, {}, found.usage)


class LearnsInEvaluation(Rounding):
    def forward(self, vectors: torch.Tensor) -> Quantized:
        found = super().forward(vectors)
        self.codewords = self.codewords * 0.9
        return found


class LearnsFromTheLastMicroBatch(Rounding):
    def __init__(self, config: Rounding.Config) -> None:
        super().__init__(config)
        self.register_buffer("centre", torch.zeros(()))
        self.latest = torch.zeros(())

    def forward(self, vectors: torch.Tensor) -> Quantized:
        self.latest = vectors.detach().float().mean()
        return super().forward(vectors)

    def learn(self) -> None:
        if not self.latest.isfinite():
            raise TrainingError("the vectors are not finite")
        self.centre.copy_(self.latest)


class LearnsAlone(LearnsFromTheLastMicroBatch):
    """Learns from all micro-batches, but from those of its own process only."""

    def __init__(self, config: Rounding.Config) -> None:
        super().__init__(config)
        self.seen: list[torch.Tensor] = []

    def forward(self, vectors: torch.Tensor) -> Quantized:
        found = super().forward(vectors)
        self.seen.append(vectors.detach().float())
        return found

    def learn(self) -> None:
        seen, self.seen = self.seen, []
        if seen:
            self.latest = torch.cat(seen).mean()
            super().learn()


class CountsApart(Rounding):
    """Counts the steps where no checkpoint finds them."""

    def __init__(self, config: Rounding.Config) -> None:
        super().__init__(config)
        self.register_buffer("parity", torch.zeros(()))
        self.steps = 0

    def forward(self, vectors: torch.Tensor) -> Quantized:
        found = super().forward(vectors)
        self.steps += self.training
        return found

    def learn(self) -> None:
        self.parity.fill_(min(self.steps, 4))


class Coarse(Rounding):
    """Adds in the precision of its input, in which a little more than 64 is 64."""

    def forward(self, vectors: torch.Tensor) -> Quantized:
        found = super().forward(vectors)
        ids = (vectors[..., :1] + 64 > 64).long()
        return Quantized(self.lookup(ids) + found.vectors - found.vectors.detach(), ids, {}, found.usage)


class Rigid(Rounding):
    """Loads what fits and leaves it to torch to complain."""

    class Config(PartConfig):
        vocab_size: int

    def __init__(self, config: Config) -> None:
        super().__init__(Rounding.Config())
        self.register_buffer("unused", torch.zeros(config.vocab_size))


class HiddenState(Rounding):
    def __init__(self, config: Rounding.Config) -> None:
        super().__init__(config)
        self.scale = float(torch.rand(()))

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        return super().lookup(ids) * self.scale


class Backwards(Rounding):
    """Passes the gradient on with the other sign."""

    def forward(self, vectors: torch.Tensor) -> Quantized:
        found = super().forward(vectors)
        passed = found.vectors.detach() - vectors.float() + vectors.float().detach()
        return Quantized(passed, found.ids, {}, found.usage)


class Tableless(Rounding):
    """Shows priors other codewords than it uses."""

    def code_vectors(self) -> torch.Tensor:
        return 0 * super().code_vectors()


class TakesNaN(Rounding):
    def forward(self, vectors: torch.Tensor) -> Quantized:
        return super().forward(vectors.nan_to_num())


class MessyQuantizer(Rounding):
    """Scales the vectors that it is given."""

    def forward(self, vectors: torch.Tensor) -> Quantized:
        found = super().forward(vectors)
        with torch.no_grad():
            vectors.mul_(0.5)
        return found


QUANTIZERS = (
    Rounding,
    NoGradient,
    Backwards,
    Tableless,
    LearnsInEvaluation,
    LearnsFromTheLastMicroBatch,
    LearnsAlone,
    CountsApart,
    Coarse,
    Rigid,
    HiddenState,
    MessyQuantizer,
    TakesNaN,
)
