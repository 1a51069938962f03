"""The schedule and the optimizer against arrays computed by the published UViM code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cynosure.train.schedule import learning_rate, set_learning_rate
from cynosure_plugins.optimizers import adafactor

Arrays = dict[str, np.ndarray]
STEPS, WARMUP = 10, 3
SLOW = ("pos_embedding_encoder", "EmbedPatches", "enc/")
"""Parameters that learn at a tenth of the rate in stage II."""
STAGES: dict[str, dict[str, Any]] = {
    "stage1": {"lr": 4e-4, "weight_decay": 4e-5, "clip": 1.0, "slow": ()},
    "stage2": {"lr": 1e-3, "weight_decay": 1e-6, "clip": 0.0, "slow": SLOW},
}


def test_cosine_with_warm_up(ops: Arrays) -> None:
    found = [learning_rate(step, 20, 1.0, 5, 0.0) for step in range(21)]
    np.testing.assert_allclose(found, ops["schedule/cosine_total20_warm5"], atol=1e-6)


@pytest.fixture(scope="module")
def arrays(golden: Path) -> Arrays:
    with np.load(golden / "uvim" / "optimizer.npz") as file:
        return dict(file)


class Kernel(nn.Linear):
    """A linear layer with a weight of any shape."""

    def __init__(self, weight: nn.Parameter) -> None:
        nn.Module.__init__(self)
        self.weight = weight


def model_of(parameters: Mapping[str, nn.Parameter]) -> nn.Module:
    """A model of unrelated parameters, of which those called kernel are weights of layers."""
    kernels = {name: Kernel(p) for name, p in parameters.items() if name.endswith("/kernel")}
    others = {name: nn.ParameterList([p]) for name, p in parameters.items() if name not in kernels}
    return nn.ModuleDict({**kernels, **others})


@pytest.mark.parametrize("stage", STAGES)
def test_adafactor(stage: str, arrays: Arrays) -> None:
    prefix, settings = f"optim/{stage}/", STAGES[stage]
    names = [key.removeprefix(f"{prefix}p0/") for key in arrays if key.startswith(f"{prefix}p0/")]
    parameters = {name: nn.Parameter(torch.from_numpy(arrays[f"{prefix}p0/{name}"].copy())) for name in names}
    scales = {name: 0.1 for name in names if name.startswith(settings["slow"])}
    told = SimpleNamespace(optimizer="adafactor", betas=(0.9, 0.95), lr_scale=scales, **settings)
    run = SimpleNamespace(stage="codes", settings=told, model=model_of(parameters))
    optimizer = adafactor.cynosure_build_optimizer(run=run)
    assert optimizer is not None
    for step in range(6):
        set_learning_rate(optimizer, learning_rate(step, STEPS, settings["lr"], WARMUP, 0.0))
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(arrays[f"{prefix}g{step}/{name}"].copy())
        if settings["clip"]:
            nn.utils.clip_grad_norm_(list(parameters.values()), settings["clip"])
        optimizer.step()
        for name, parameter in parameters.items():
            key = f"{prefix}p{step + 1}/{name}"
            if key in arrays:
                np.testing.assert_allclose(parameter.detach().numpy(), arrays[key], rtol=0, atol=1e-6, err_msg=key)
