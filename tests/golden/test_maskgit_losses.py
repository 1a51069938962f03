"""Criterion `adversarial` against arrays computed by google-research/maskgit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from convnets import TASK, read
from torch import nn

from cynosure.core.records import Shapes
from cynosure_plugins.criteria.adversarial import Adversarial


@pytest.mark.parametrize("kind", ["hinge", "nonsaturating"])
def test_adversarial_losses(golden: Path, kind: str) -> None:
    """Its discriminator's loss is the sum of both sides, not VQGAN's mean, hence the weight 2."""
    arrays = read(golden / "maskgit" / "losses.npz")
    config = Adversarial.Config(loss=kind, adaptive=False, weight=1.0, discriminator_weight=2.0, ramp=0)
    criterion = Adversarial(config, Shapes((32, 32), {TASK: 3})).eval()
    criterion.discriminator = nn.Identity()  # what it is given are a discriminator's answers
    real, fake = torch.from_numpy(arrays["real_logit"]), torch.from_numpy(arrays["fake_logit"]).requires_grad_()
    found = criterion(fake, real, TASK, torch.zeros(()), None)
    for term, name in (("discriminator", "d"), ("generator", "g")):
        np.testing.assert_allclose(found[term].detach(), arrays[f"{name}_{kind}"], rtol=1e-5, err_msg=term)
