"""Oracle, codebook and base model against arrays computed by the published UViM code, with the same weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from uvim_models import Arrays, Case, gradients

from cynosure.core import guided
from cynosure.core.guided import GuidedModel
from cynosure.core.records import Codes, StepOutput
from cynosure_plugins.tokenizers.vit_oracle import ViTOracle

TIGHT = {"atol": 2e-5, "rtol": 1e-5}


@pytest.fixture(scope="session")
def model(case: Case) -> GuidedModel:
    return case.model()


@pytest.fixture(scope="session")
def train(case: Case) -> Arrays:
    return case.arrays("stage1_train")


def oracle(model: GuidedModel) -> ViTOracle:
    assert isinstance(model.tokenizer, ViTOracle)
    return model.tokenizer


def codes(model: GuidedModel, ids: np.ndarray) -> Codes:
    return Codes(torch.from_numpy(ids).long()[..., None], oracle(model).spec)


def test_label_stems(case: Case, model: GuidedModel) -> None:
    """UViM embeds each label channel for itself and adds them; ours is one convolution over all."""
    targets = model.tasks[case.name].encode_targets(case.batch())
    stem = oracle(model).stems[case.name](targets).flatten(2).transpose(1, 2)
    wanted = sum(case.stage1[f"stem/{channel}"] for channel in case.channels)
    np.testing.assert_allclose(stem.detach().numpy(), wanted, **TIGHT)


def test_codes_of_the_oracle(case: Case, model: GuidedModel) -> None:
    batch, stage1 = case.batch(), case.stage1
    targets = model.tasks[case.name].encode_targets(batch)
    with torch.no_grad():
        bottleneck = oracle(model).bottleneck(targets, batch.inputs, case.name)
        encoded = oracle(model).encode(targets, batch.inputs, case.name)
    np.testing.assert_allclose(bottleneck.numpy(), stage1["bottleneck"], **TIGHT)
    np.testing.assert_array_equal(encoded.codes.ids[..., 0].numpy(), stage1["code"])
    np.testing.assert_allclose(encoded.vectors.numpy(), stage1["bottleneck_q"], **TIGHT)


@pytest.mark.parametrize(("ids", "logits"), [("code", "logits"), ("rand_code", "rand_logits")])
def test_outputs_of_the_base_for_given_codes(case: Case, model: GuidedModel, ids: str, logits: str) -> None:
    outputs = model.outputs(case.batch(), codes(model, case.stage1[ids]))
    np.testing.assert_allclose(outputs.numpy(), case.outputs(case.stage1, logits).numpy(), **TIGHT)


def trained(case: Case, train: Arrays, patch: pytest.MonkeyPatch, **quantizer: float) -> tuple[StepOutput, Arrays]:
    """One training step up to the gradients, with the recorded code dropout; gradients by UViM's names."""
    mask = torch.from_numpy(train["dropout/keep_mask"])
    patch.setattr(guided, "keep_mask", lambda *sizes, **where: mask)
    model = case.model(**quantizer)
    model.set_stage("codes")
    output = model(case.batch(), "codes")
    output.loss.backward()
    output = StepOutput(output.loss.detach(), output.logs)
    return output, gradients(model, case.stage1_names, case.arrays("stage1_params"))


def assert_gradients(found: Mapping[str, np.ndarray], wanted: Arrays, prefix: str) -> None:
    names = [key.removeprefix(prefix) for key in wanted if key.startswith(prefix)]
    assert names
    for name in names:
        np.testing.assert_allclose(found[name], wanted[prefix + name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_a_training_step(case: Case, train: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    output, found = trained(case, train, monkeypatch)
    assert float(output.loss) == pytest.approx(float(train["loss_rec"]), abs=1e-5)
    assert float(1 - output.logs["codes_used"]) == pytest.approx(float(train["codebook_zeros_ratio"]), abs=1e-6)
    assert_gradients(found, train, "grad/")
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in found.items()}
    wanted = dict(zip(train["grad_l2/names"].tolist(), train["grad_l2/values"], strict=True))
    assert norms.keys() == wanted.keys(), "every parameter of one must be one of the other"
    for name, value in wanted.items():
        assert norms[name] == pytest.approx(float(value), rel=1e-3, abs=1e-6), name


def test_a_training_step_with_commitment(case: Case, train: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    output, found = trained(case, train, monkeypatch, commitment=0.25)
    assert float(output.logs["commitment"]) == pytest.approx(0.25 * float(train["loss_commitment"]), abs=1e-5)
    assert float(output.loss) == pytest.approx(float(train["loss_rec"] + 0.25 * train["loss_commitment"]), abs=1e-5)
    assert_gradients(found, train, "grad_wc0.25/")


def test_outputs_with_dropped_codes(case: Case, train: Arrays, model: GuidedModel) -> None:
    vectors = oracle(model).vectors(codes(model, case.stage1["code"]))
    kept = vectors * torch.from_numpy(train["dropout/keep_mask"])[..., None]
    with torch.no_grad():
        outputs = model.base(case.batch().inputs, kept, case.name)
    np.testing.assert_allclose(outputs.numpy(), case.outputs(train).numpy(), **TIGHT)


def test_most_used_code(case: Case, train: Arrays, model: GuidedModel) -> None:
    usage = np.bincount(model.encode(case.batch()).ids.flatten().numpy())
    assert usage.max() / usage.sum() == pytest.approx(float(train["codebook_max_ratio"]))
