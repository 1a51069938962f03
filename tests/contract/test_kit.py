"""The kit itself: components that break their contract are told so, by the check that guards it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from broken_networks import BASES, ENCODERS, TASKS
from broken_priors import PRIORS
from broken_quantizers import QUANTIZERS
from torch import nn

from cynosure.core.contracts import Base, Criterion, Encoder, PartConfig
from cynosure.core.metrics import MeanMetric, SumMetric
from cynosure.core.records import Shapes
from cynosure.errors import CynosureError
from cynosure.host import Host, load_host
from cynosure.testing import check_component


class Restless(Criterion):
    """Breaks the contract in several ways: it counts in forward, where nobody saves it, and has idle parameters."""

    class Config(PartConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        task: str,
        reconstruction: torch.Tensor,
        last: nn.Parameter | None,
    ) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"far": self.calls * (outputs - targets).square().mean()}


class Blind(Restless):
    """Its loss teaches the model nothing."""

    def forward(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        task: str,
        reconstruction: torch.Tensor,
        last: nn.Parameter | None,
    ) -> dict[str, torch.Tensor]:
        return {"far": self.idle * (outputs.detach() - targets).square().mean()}


class Deaf(Base):
    """Ignores its codes."""

    class Config(PartConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({task: nn.Conv2d(3, c, 1) for task, c in shapes.channels.items()})

    def forward(self, inputs: Mapping[str, Any], vectors: torch.Tensor | None, task: str) -> torch.Tensor:
        return self.heads[task](inputs["image"])


class Terse(Deaf):
    """Takes pictures of whole patches only, and does not say so."""

    def __init__(self, config: Deaf.Config, shapes: Shapes) -> None:
        if any(side % 8 for side in shapes.image_size):
            raise ValueError("bad shapes")
        super().__init__(config, shapes)


class Idle(Deaf):
    """Has a layer that it never uses."""

    def __init__(self, config: Deaf.Config, shapes: Shapes) -> None:
        super().__init__(config, shapes)
        self.unused = nn.Linear(2, 2)


class Nosy(Encoder):
    """Looks at the other rows of the batch."""

    class Config(PartConfig):
        pass

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.dim = 3
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        x = inputs["image"].flatten(2).transpose(1, 2)
        return (x - x.mean(0)) * self.scale


class LastBatch(SumMetric):
    """Keeps only what came last."""

    class Config(PartConfig):
        min_depth: float = 0
        max_depth: float = 1

    TESTING: ClassVar = {"options": {"task": {"name": "depth", "encoding": "log"}}}

    def __init__(self, config: Config) -> None:
        super().__init__(error=1)

    def update(self, predictions: Any, truths: Any) -> None:
        self.reset()
        super().update(predictions, truths)

    def measure(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {"error": float(np.abs(prediction["depth"] - truth["depth"]).mean())}

    def results(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {"error": float(sums["error"][0])}


class OwnRows(MeanMetric):
    """Forgets that other processes saw rows too."""

    class Config(LastBatch.Config):
        pass

    TESTING: ClassVar = LastBatch.TESTING

    def __init__(self, config: Config) -> None:
        super().__init__("error")

    def compute(self) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(value) for name, value in self.results(self._sums).items()}

    def judge(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {"error": float(np.abs(prediction["depth"] - truth["depth"]).mean())}


@pytest.fixture(scope="module")
def host() -> Host:
    host = load_host(only=["depth"])
    for cls in QUANTIZERS:
        host.components.add("quantizer", cls.__name__, cls, "test")
    for cls in (Deaf, Idle, Terse, *BASES):
        host.components.add("base", cls.__name__, cls, "test")
    for criterion in (Restless, Blind):
        host.components.add("criterion", criterion.__name__, criterion, "test")
    for encoder in (Nosy, *ENCODERS):
        host.components.add("encoder", encoder.__name__, encoder, "test")
    for task in TASKS:
        host.components.add("task", task.__name__, task, "test")
    for prior in PRIORS:
        host.components.add("prior", prior.__name__, prior, "test")
    host.components.add("metric", "depth_error", LastBatch, "test")
    host.components.add("metric", "OwnRows", OwnRows, "test")
    return host


RANKS = {"ranks_stay_equal", "ranks_learn_what_one_learns_from_all"}
BROKEN = [
    ("quantizer", "Rounding", set()),
    ("quantizer", "NoGradient", {"gradient_passes_straight_through", "gradient_leads_to_other_codes"}),
    ("quantizer", "Backwards", {"gradient_leads_to_other_codes"}),
    ("quantizer", "Tableless", {"code_vectors_make_up_what_lookup_gives"}),
    (
        "quantizer",
        "LearnsInEvaluation",
        {
            "lookup_gives_the_vectors",
            "gradient_leads_to_other_codes",
            "quantizing_twice_changes_nothing",
            "evaluation_changes_nothing",
            "forward_leaves_learning_to_learn",
            "micro_batches_teach_what_one_batch_teaches",
        },
    ),
    ("quantizer", "LearnsFromTheLastMicroBatch", {"micro_batches_teach_what_one_batch_teaches", *RANKS}),
    ("quantizer", "LearnsAlone", RANKS),
    ("quantizer", "CountsApart", {"micro_batches_teach_what_one_batch_teaches", "a_resumed_run_learns_on"}),
    ("quantizer", "Coarse", {"computes_in_full_precision"}),
    ("quantizer", "Rigid", {"refuses_a_codebook_of_another_size"}),
    ("quantizer", "HiddenState", {"state_survives"}),
    ("quantizer", "MessyQuantizer", {"what_is_given_stays_as_it_is", "quantizing_twice_changes_nothing"}),
    ("quantizer", "TakesNaN", {"refuses_nan", "nan_stays_nan_in_evaluation"}),
    ("base", "Deaf", {"codes_matter", "gradient_reaches_the_vectors"}),
    ("base", "Terse", {"codes_matter", "gradient_reaches_the_vectors", "takes_or_refuses_odd_sizes"}),
    ("base", "Idle", {"codes_matter", "gradient_reaches_the_vectors", "gradient_reaches_every_parameter"}),
    (
        "criterion",
        "Restless",
        {"gradient_reaches_every_parameter", "micro_batches_are_judged_alike", "state_survives"},
    ),
    ("criterion", "Blind", {"gradient_reaches_the_model"}),
    ("base", "BlindBase", {"picture_matters"}),
    ("base", "Detached", {"gradient_reaches_the_vectors"}),
    ("base", "MessyBase", {"what_is_given_stays_as_it_is"}),
    ("base", "DoubleBase", {"output_is_float32"}),
    ("encoder", "Nosy", {"rows_are_independent"}),
    ("encoder", "MessyEncoder", {"what_is_given_stays_as_it_is"}),
    ("encoder", "DoubleEncoder", {"context_is_a_sequence_of_vectors"}),
    ("task", "DoubleTargets", {"targets_are_planes"}),
    ("task", "DoubleInputs", {"floats_are_float32"}),
    ("task", "Noisy", {"decode_answers_row_by_row"}),
    ("task", "Neighbourly", {"decode_answers_row_by_row"}),
    ("task", "Summed", {"loss_is_a_mean_over_rows"}),
    ("task", "Columnar", {"columns_are_known"}),
    ("task", "Supplied", set()),
    (
        "prior",
        "Careless",
        {
            "minimising_the_loss_teaches_the_codes",
            "seeds_decide",
            "rows_are_independent",
            "known_codes_are_kept",
            "settings_are_followed_or_refused",
            "temperature_zero_is_greedy",
            "takes_or_refuses_several_segments",
            "codes_keep_to_the_vocabulary_of_their_depth",
        },
    ),
    ("prior", "Untaught", {"minimising_the_loss_teaches_the_codes"}),
    ("prior", "Messy", {"what_is_given_stays_as_it_is"}),
    ("prior", "Finishing", {"what_is_given_stays_as_it_is"}),
    ("prior", "Free", {"settings_are_followed_or_refused", "guidance_is_followed_or_refused"}),
    ("prior", "Lukewarm", {"settings_are_followed_or_refused"}),
    ("prior", "Refusing", set()),
    ("prior", "Dreaming", {"samples_read_the_inputs", "greedy_samples_follow_the_logits"}),
    ("prior", "Settled", {"training_mode_is_left_alone"}),
    ("prior", "SummedPrior", {"first_loss_is_that_of_guessing"}),
    ("prior", "BlindPrior", {"loss_reads_the_inputs"}),
    ("prior", "Displaced", {"minimising_the_loss_teaches_the_codes", "greedy_samples_follow_the_logits"}),
    ("metric", "depth_error", {"batches_add_up"}),
    ("metric", "OwnRows", {"processes_add_up"}),
]


@pytest.mark.parametrize(("kind", "name", "guards"), BROKEN, ids=[f"{kind}-{name}" for kind, name, _ in BROKEN])
def test_a_broken_contract_is_found_by_its_check(host: Host, kind: str, name: str, guards: set[str]) -> None:
    failed = {r.check: r.message for r in check_component(host, kind, name) if not r.ok}
    assert not guards - set(failed), f"{name} breaks {guards - set(failed)} unnoticed"
    assert not set(failed) - guards, f"{name} is blamed for what it does right: {failed}"
    assert all(failed.values()), "every failure says what is wrong"


def test_a_check_can_be_skipped_with_a_reason(host: Host) -> None:
    results = {r.check: r for r in check_component(host, "base", "Deaf", skip={"codes_matter": "it has none"})}
    assert results["codes_matter"].ok and "it has none" in results["codes_matter"].message


def test_skipping_an_unknown_check_names_the_closest(host: Host) -> None:
    with pytest.raises(CynosureError, match="codes_matter"):
        check_component(host, "base", "Deaf", skip={"code_matters": "typo"})
