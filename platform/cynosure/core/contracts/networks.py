"""Contracts of what a model is built of: modules with weights, plugged together.

Shapes: B batch, N patches, L code length, D depth, K vocabulary, d width, C channels, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from cynosure.core.contracts.config import PartConfig
from cynosure.core.records import Codes, CodeSpec, Encoded, Quantized, SampleSettings, Segment, SoftTargets
from cynosure.errors import CynosureError


class Quantizer(nn.Module, ABC):
    """Vectors to codes and back. Built as `Quantizer(config)`; computes in float32 whatever the precision around it.

    One that learns from statistics collects them in `forward` and changes its codebook in `learn`: all micro-batches of
    an optimizer step are then quantized alike, and `accumulate: n` gives the codebook that n times the batch gives.
    """

    Config: ClassVar[type[PartConfig]]
    vocab_size: int
    dim: int
    depth: int
    positions: int | None = None
    """N, of a quantizer that takes no other number of vectors."""

    @abstractmethod
    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> straight-through vectors, ids [B, L, D], losses. Changes no state that is saved.

        L is N unless `segments` says otherwise.
        """

    @abstractmethod
    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, L, D] -> vectors [B, N, d]."""

    def segments(self, positions: int) -> tuple[Segment, ...]:
        """What the ids of `positions` vectors are; one code a vector unless the quantizer says otherwise."""
        return (Segment("codes", positions, self.depth, self.vocab_size),)

    def code_vectors(self) -> torch.Tensor:
        """Where a vector is the sum of the codewords of its D codes: [D, K, d], or [1, K, d] if all depths share them.

        Raises CynosureError for a quantizer whose vectors are made otherwise.
        """
        if self.positions is not None or sum(s.length * s.depth for s in self.segments(1)) > 1:
            raise CynosureError(
                f"{type(self).__name__} has no codeword for a single code: let the prior learn a table of its own "
                "(model.prior.embedding: separate)."
            )
        device = next((tensor.device for tensor in (*self.parameters(), *self.buffers())), None)
        return self.lookup(torch.arange(self.vocab_size, device=device)[None, :, None])

    def soft_codes(
        self, vectors: torch.Tensor, temperature: float = 1.0, stochastic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids int64 [B, L, D] of vectors [B, N, d] and how likely each code was [B, L, D, K]; see SoftTargets.

        Raises CynosureError for a quantizer without probabilities.
        """
        raise CynosureError(f"{type(self).__name__} has no soft codes: use quantizer rq, or no soft_temperature.")

    def in_use(self) -> torch.Tensor | None:
        """Which codes the last of the training used, bool [K]; None for a quantizer that does not count."""
        return None

    def learn(self) -> None:
        """Learn from the vectors that `forward` saw in training mode since the last call, those of all processes.

        Called once after every optimizer step that trains the tokenizer. Raises TrainingError, before any state
        changes, when the vectors were not finite.
        """


class Tokenizer(nn.Module, ABC):
    """The guiding-code oracle. Built as `Tokenizer(config, shapes, quantizer)`."""

    Config: ClassVar[type[PartConfig]]
    quantizer: Quantizer

    @property
    @abstractmethod
    def spec(self) -> CodeSpec: ...

    @property
    def code_dim(self) -> int:
        return self.quantizer.dim

    @property
    def code_positions(self) -> int:
        """N, how many vectors a code stands for; L unless the quantizer writes several positions a vector."""
        return self.spec.length

    @abstractmethod
    def encode(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> Encoded:
        """Targets [B, C, H, W] and the inputs -> codes, vectors [B, L, d], losses."""

    def bottleneck(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """The vectors [B, N, d] that are quantized; CynosureError for a tokenizer that does not show them."""
        raise CynosureError(f"{type(self).__name__} has no soft codes: use no soft_temperature.")

    @torch.no_grad()
    def soft_codes(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str, soft: SoftTargets) -> Codes:
        """What `encode` writes, with the probabilities of all codes."""
        vectors = self.bottleneck(targets, inputs, task)
        ids, probabilities = self.quantizer.soft_codes(vectors, soft.temperature, soft.stochastic)
        return Codes(ids, self.spec, probabilities)

    def vectors(self, codes: Codes) -> torch.Tensor:
        """Codes -> vectors [B, L, d]."""
        return self.quantizer.lookup(codes.ids)

    def forward(self, targets: torch.Tensor, inputs: Mapping[str, Any], task: str) -> Encoded:
        return self.encode(targets, inputs, task)


class Base(nn.Module, ABC):
    """The base model f(x, z). Built as `Base(config, shapes)`."""

    Config: ClassVar[type[PartConfig]]

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        """Inputs and code vectors [B, L, d] (all-zero rows where a code is dropped) -> raw outputs [B, C, H, W]."""

    def penalties(self, vectors: torch.Tensor, task: str) -> dict[str, torch.Tensor]:
        """Named scalar losses of stage `codes` that ask for more than the outputs; vectors [B, N, d]."""
        return {}

    def last_layer(self, task: str) -> nn.Module | None:
        """The layer that writes the task's raw outputs, at whose `weight` losses are balanced; None: not known."""
        return None


class Criterion(nn.Module, ABC):
    """A loss of stage `codes` that needs a network of its own. Built as `Criterion(config, shapes)`.

    Its parameters are trained, averaged and saved with the model's; predicting needs neither them nor any file.
    """

    Config: ClassVar[type[PartConfig]]

    @abstractmethod
    def forward(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        task: str,
        reconstruction: torch.Tensor,
        last: nn.Parameter | None,
    ) -> dict[str, torch.Tensor]:
        """Raw outputs and targets [B, C, H, W], the task's loss with those of the criteria before this one, the weight
        of `Base.last_layer` -> named scalar losses. One backward pass serves model and criterion, all of whose
        parameters take part in every call; statistics of norms aside, nothing changes."""

    def end_step(self) -> None:
        """Called once after every optimizer step that trains the criterion."""


class Encoder(nn.Module, ABC):
    """Context for a prior. Built as `Encoder(config, shapes)`."""

    Config: ClassVar[type[PartConfig]]
    dim: int
    starts_trained: bool = False
    """Whether it begins with somebody's weights, which `train.prior.warm_start` then leaves alone."""
    vocab_size: int | None = None
    """How many tokens there are, where every vector stands for one and says nothing of the others (see `tokens`)."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """Inputs -> context vectors [B, N, d]."""

    def tokens(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """What the vectors stand for, int64 [B, N] in [0, vocab_size), for a prior that learns to predict it too.

        An encoder that reads at random says what it read when it was last called with these inputs.

        Raises CynosureError for an encoder whose `vocab_size` is None.
        """
        raise CynosureError(f"{type(self).__name__} reads no tokens one by one: use encoder text or bpe, with depth 0.")


class Prior(nn.Module, ABC):
    """The code language model p(z | x). Built as `Prior(config, shapes, encoder)`; encoder None: unconditional."""

    Config: ClassVar[type[PartConfig]]
    soft_targets: SoftTargets | None = None
    """Which probabilities the codes given to `loss` in training carry; None: none."""
    takes_steps: bool = False
    """Whether it writes codes in rounds, whose number `SampleSettings.steps` is."""

    def attach(self, tokenizer: Tokenizer) -> None:
        """Called once, when the model is put together, for priors that read code vectors (`Quantizer.code_vectors`).

        What is kept of the tokenizer must not become a submodule: its weights are saved, and trained, elsewhere.
        """

    @abstractmethod
    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        """Named scalar losses of the codes given the inputs, in nats per code."""

    @abstractmethod
    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        """Codes drawn given the inputs of B rows; a row's codes depend on its inputs and its own seed (int64 [B]) only,
        never on the rows beside it."""
