"""The code language model and the way from an image to an answer against arrays computed by the published UViM code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from uvim_models import Arrays, Case, assert_predictions, channels_first, gradients, make_batch

from cynosure.core.guided import GuidedModel
from cynosure.core.records import Codes, SampleSettings
from cynosure_plugins.priors.autoregressive import Autoregressive

TIGHT = {"atol": 2e-5, "rtol": 1e-5}
GREEDY = SampleSettings(temperature=0.0)


@pytest.fixture(scope="session")
def model(case: Case) -> GuidedModel:
    return case.model()


@pytest.fixture(scope="session")
def stage2(case: Case) -> Arrays:
    return case.stage2


def prior(model: GuidedModel) -> Autoregressive:
    assert isinstance(model.prior, Autoregressive)
    return model.prior


def logits(case: Case, model: GuidedModel, tokens: np.ndarray) -> torch.Tensor:
    """Teacher-forced, [B, L, K + 1]."""
    inputs = {"image": channels_first(case.stage2["image"])}
    with torch.no_grad():
        return prior(model).logits(inputs, torch.from_numpy(tokens).long(), case.name)


def codes(case: Case, model: GuidedModel, ids: np.ndarray) -> Codes:
    """UViM's code -1, which it reads for the start symbol, is the last codeword."""
    return Codes(torch.from_numpy(ids % case.config["dict_size"]).long()[..., None], prior(model).spec)


def test_image_encoder(case: Case, model: GuidedModel, stage2: Arrays) -> None:
    encoder = prior(model).encoder
    assert encoder is not None
    with torch.no_grad():
        encoded = encoder({"image": channels_first(stage2["image"])}, case.name)
    np.testing.assert_allclose(encoded.numpy(), stage2["encoded"], **TIGHT)


@pytest.mark.parametrize("which", ["", "rand_", "greedy_"])
def test_teacher_forced_logits(case: Case, model: GuidedModel, stage2: Arrays, which: str) -> None:
    found = logits(case, model, stage2[f"{which}tokens"])
    np.testing.assert_allclose(found.numpy(), stage2[f"{which}logits"], **TIGHT)


def test_loss_and_its_gradients(case: Case, stage2: Arrays) -> None:
    model = case.model()
    model.set_stage("prior")
    batch = make_batch(case.name, stage2["image"])
    loss = prior(model).loss(batch.inputs, codes(case, model, stage2["tokens"] - 1), case.name)["nll"]
    loss.backward()
    assert loss.item() == pytest.approx(float(stage2["loss"]), abs=1e-5)
    found = gradients(model, case.stage2_names, case.arrays("stage2_params"))
    for key in (key for key in stage2 if key.startswith("grad/")):
        name = key.removeprefix("grad/")
        np.testing.assert_allclose(found[name], stage2[key], rtol=1e-3, atol=1e-6, err_msg=name)
    wanted = dict(zip(stage2["grad_l2/names"].tolist(), stage2["grad_l2/values"], strict=True))
    assert found.keys() == wanted.keys(), "every parameter of one must be one of the other"
    for name, value in wanted.items():
        assert float(np.linalg.norm(found[name])) == pytest.approx(float(value), rel=1e-3, abs=1e-6), name


def test_loss_of_each_example(case: Case, model: GuidedModel, stage2: Arrays) -> None:
    for i, wanted in enumerate(stage2["loss_per_example"]):
        batch = make_batch(case.name, stage2["image"][i : i + 1])
        own = codes(case, model, stage2["tokens"][i : i + 1] - 1)
        with torch.no_grad():
            loss = prior(model).loss(batch.inputs, own, case.name)["nll"]
        assert float(loss) == pytest.approx(float(wanted), abs=1e-5)


def test_greedy_codes_and_their_probabilities(case: Case, model: GuidedModel, stage2: Arrays) -> None:
    batch = make_batch(case.name, stage2["image"])
    found = prior(model).sample(batch.inputs, case.name, GREEDY, batch.keys).ids[..., 0]
    np.testing.assert_array_equal(found.numpy(), (stage2["greedy_tokens"] - 1) % case.config["dict_size"])
    logprobs = logits(case, model, stage2["greedy_tokens"]).log_softmax(-1)
    picked = logprobs.gather(-1, torch.from_numpy(stage2["greedy_tokens"]).long()[..., None])[..., 0]
    np.testing.assert_allclose(picked.numpy(), stage2["greedy_logprobs"], **TIGHT)
    np.testing.assert_allclose(picked.sum(-1).numpy(), stage2["greedy_scores"], atol=1e-4)


def test_from_an_image_to_answers(case: Case, model: GuidedModel, stage2: Arrays) -> None:
    """The prior and the base may see the picture at different sizes."""
    seen, shown = make_batch(case.name, stage2["image"]), make_batch(case.name, stage2["image_ctx"])
    outputs = model.outputs(shown, prior(model).sample(seen.inputs, case.name, GREEDY, seen.keys))
    np.testing.assert_allclose(outputs.numpy(), case.outputs(stage2, "pipeline/logits").numpy(), **TIGHT)
    wanted = {key.removeprefix("pipeline/"): stage2[key] for key in stage2 if key.startswith("pipeline/pred/")}
    assert_predictions(case, outputs, shown, wanted)


def test_the_start_symbol_is_read_as_the_last_code(case: Case, model: GuidedModel, stage2: Arrays) -> None:
    shown = make_batch(case.name, stage2["image_ctx"])
    outputs = model.outputs(shown, codes(case, model, stage2["token0/code"]))
    np.testing.assert_allclose(outputs.numpy(), case.outputs(stage2, "token0/logits").numpy(), **TIGHT)
    draws_it = prior(case.model())
    torch.nn.init.zeros_(draws_it.head.weight)
    torch.nn.init.constant_(draws_it.head.bias[:1], 100.0)
    drawn = draws_it.sample(shown.inputs, case.name, GREEDY, shown.keys).ids
    assert (drawn == case.config["dict_size"] - 1).all()
