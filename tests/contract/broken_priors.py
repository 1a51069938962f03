"""Priors that break their contract in one way each, for test_kit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cynosure.core.contracts import Encoder, PartConfig, Prior
from cynosure.core.records import Codes, SampleSettings, Shapes
from cynosure.errors import CynosureError
from cynosure_plugins.priors.autoregressive import Autoregressive


class Careless(Prior):
    """Uniform codes from the global generator: no seeds, no known codes, no greed."""

    class Config(PartConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes, encoder: Encoder | None) -> None:
        super().__init__()
        assert shapes.spec is not None
        self.spec = shapes.spec
        self.logits = nn.Parameter(torch.zeros(self.spec.vocab_size))

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        return {"nll": -self.logits.log_softmax(0)[codes.ids].mean()}

    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        size = (len(seeds), self.spec.length, self.spec.depth)
        return Codes(torch.randint(self.spec.vocab_size, size), self.spec)


class Untaught(Autoregressive):  # type: ignore[misc]
    """Learns code 0 whatever it is given."""

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        return super().loss(inputs, Codes(0 * codes.ids, codes.spec), task)


class Messy(Autoregressive):  # type: ignore[misc]
    """Writes into what it is given."""

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        found = super().loss(inputs, codes, task)
        codes.ids.fill_(0)
        return found


class Finishing(Autoregressive):  # type: ignore[misc]
    """Writes into the settings."""

    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        found = super().sample(inputs, task, settings, seeds)
        if settings.known is not None:
            settings.known.copy_(found.ids)
        return found


class Free(Autoregressive):  # type: ignore[misc]
    """Follows the temperature only."""

    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        settings = replace(settings, top_k=None, top_p=None, guidance=1.0)
        return super().sample(inputs, task, settings, seeds)


class Lukewarm(Autoregressive):  # type: ignore[misc]
    """Knows two temperatures, 0 and 1."""

    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        temperature = 1.0 if settings.temperature else 0.0
        return super().sample(inputs, task, replace(settings, temperature=temperature), seeds)


class Refusing(Autoregressive):  # type: ignore[misc]
    """Does not follow top_k and says so: nothing is wrong with that."""

    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        if settings.top_k is not None:
            raise CynosureError("prior refusing does not know top_k: leave it out")
        return super().sample(inputs, task, settings, seeds)


class Dreaming(Autoregressive):  # type: ignore[misc]
    """Looks at the picture in training only."""

    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        return super().sample({**inputs, "image": 0 * inputs["image"]}, task, settings, seeds)


class BlindPrior(Autoregressive):  # type: ignore[misc]
    """Has an encoder that it never shows the picture."""

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        return super().loss({**inputs, "image": 0 * inputs["image"]}, codes, task)


class Displaced(Autoregressive):  # type: ignore[misc]
    """Is trained with its tokens one place later than it samples them."""

    def logits(self, inputs: Mapping[str, Any], tokens: torch.Tensor, task: str) -> torch.Tensor:
        return super().logits(inputs, tokens.roll(1, dims=1), task)


class Settled(Autoregressive):  # type: ignore[misc]
    """Stays in evaluation mode once it has sampled."""

    def sample(self, inputs: Mapping[str, Any], task: str, settings: SampleSettings, seeds: torch.Tensor) -> Codes:
        self.eval()
        return super().sample(inputs, task, settings, seeds)


class SummedPrior(Autoregressive):  # type: ignore[misc]
    """Adds up what rows cost."""

    def loss(self, inputs: Mapping[str, Any], codes: Codes, task: str) -> dict[str, torch.Tensor]:
        return {name: len(codes.ids) * value for name, value in super().loss(inputs, codes, task).items()}


PRIORS = (
    Careless,
    Settled,
    SummedPrior,
    Displaced,
    Untaught,
    Messy,
    Finishing,
    Free,
    Lukewarm,
    Refusing,
    Dreaming,
    BlindPrior,
)
