"""What checks of priors build and feed to them: the prior with an encoder and codewords, and codes to learn."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cynosure.core.contracts import Encoder, Quantizer
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Shapes
from cynosure.errors import CynosureError
from cynosure.testing.checks import Subject
from cynosure.testing.samples import CHANNELS, ROWS, Oracle, inputs, loosen, shapes

SEEDS = torch.tensor([3, 14, 15, 92])
GREEDY = SampleSettings(temperature=0.0)


class Patches(Encoder):
    """Four vectors of a picture, one a quarter, for a prior whose options name no encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 16
        self.stem = nn.Conv2d(3, self.dim, 16, stride=16)

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.stem(inputs["image"]).flatten(2).transpose(1, 2)


def _quantizer(subject: Subject) -> Quantizer | None:
    """What the prior's TESTING names, with the same random codewords every time."""
    options = getattr(subject.cls, "TESTING", {}).get("quantizer")
    if options is None:
        return None
    torch.manual_seed(0)
    quantizer: Quantizer = subject.host.components.build("quantizer", options)
    loosen(quantizer)
    return quantizer.eval()


def code_shapes(subject: Subject) -> Shapes:
    usual, quantizer = shapes(), _quantizer(subject)
    if quantizer is None or usual.spec is None:
        return usual
    return replace(usual, spec=CodeSpec(quantizer.segments(4), usual.spec.grid))


def build(subject: Subject, seed: int = 0, of: Shapes | None = None) -> Any:
    """With the encoder that the options name, None included; else with `Patches`, unless the prior refuses these."""
    of = of or code_shapes(subject)
    torch.manual_seed(seed)
    if "encoder" in subject.options:
        return attached(subject, subject.build(of, subject.part("encoder", of), seed=seed), of)
    with suppress(CynosureError, ValueError):
        return attached(subject, subject.build(of, Patches(), seed=seed), of)
    return attached(subject, subject.build(of, None, seed=seed), of)


def attached(subject: Subject, prior: Any, of: Shapes) -> Any:
    prior.attach(Oracle(of, _quantizer(subject)))
    return prior


def loosened(subject: Subject) -> Any:
    prior = build(subject)
    loosen(prior)
    return prior.eval()


def has_encoder(prior: nn.Module) -> bool:
    return any(isinstance(part, Encoder) for part in prior.modules())


def codes_of(of: Shapes, seed: int = 0) -> Codes:
    assert of.spec is not None
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randint(s.vocab_size, (ROWS, s.length, of.spec.depth), generator=generator) for s in of.spec.segments
    ]
    return Codes(torch.cat(parts, dim=1), of.spec)


def loss_of(prior: Any, task: str, of: Shapes, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(0)  # a masked prior draws its masks
    return torch.stack(list(prior.loss(inputs(seed), codes_of(of), task).values())).sum()


def tells_tasks_apart(prior: Any, of: Shapes) -> bool:
    first, second = (float(loss_of(prior, task, of).detach()) for task in CHANNELS)
    return abs(first - second) > 1e-6
