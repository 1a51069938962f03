"""The adversarial loss of VQGAN: a patch discriminator, trained beside the model that it judges."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from cynosure import hookimpl
from cynosure.core.contracts import Criterion, PartConfig
from cynosure.core.records import Shapes
from cynosure_plugins.criteria.discriminator import PatchDiscriminator
from cynosure_plugins.criteria.pictures import require_pictures
from cynosure_plugins.quantizers.codebook import sum_over_ranks

EPS = 1e-4
LARGEST = 1e4
ANCHOR_DECAY = 0.99
"""Of LeCam's anchors (its released code)."""


@final
class Adversarial(Criterion):
    """Reconstructions must not be told from pictures (Esser et al. 2021, section 3.1, and its released code).

    Terms `discriminator` and, from step `start` on, `generator`, whose weight balances its gradient with that of the
    reconstruction at the last layer (equation 7): the task's loss and the criteria listed before this one. Generator
    and discriminator step together, on one reconstruction, where the released code steps one after the other. One
    discriminator serves all tasks; pictures are RGB in [-1, 1].

    `start`, `weight` and `loss` are VQGAN's disc_start, disc_weight and disc_loss; its disc_factor f is `weight` and
    `discriminator_weight` times f. RQ-VAE: both weights 0.75, layers 2. MaskGIT and ViT-VQGAN: adaptive false, weight
    0.1, loss nonsaturating (on discriminators of StyleGAN); MaskGIT sums where VQGAN halves: discriminator_weight 2.

    As published (`lead: 0`, `ramp: 0`) the discriminator is untrained when it is first listened to, and listened to in
    full at once, which ruins the reconstruction for long. `lead` trains it beforehand, `ramp` lets its weight grow.

    The norm of a stage's gradient is clipped together with the discriminator's: VQGAN's recipe is `clip: 0`, betas
    [0.5, 0.9], weight_decay 0, final_lr 1.
    """

    class Config(PartConfig):
        weight: NonNegativeFloat = Field(0.8, description="factor on the generator's term, beside the adaptive one")
        discriminator_weight: NonNegativeFloat = Field(1.0, description="factor on the discriminator's loss")
        adaptive: bool = Field(True, description="balance gradients of reconstruction and generator's term")
        loss: Literal["hinge", "vanilla", "nonsaturating"] = Field(
            "hinge",
            description="vanilla: cross entropy for the discriminator; nonsaturating: for the generator as well, which "
            "otherwise raises the mean of the discriminator's answers",
        )
        start: NonNegativeInt = Field(0, description="optimizer step from which the generator's term counts")
        lead: NonNegativeInt = Field(
            1000, description="steps before `start`, if there are any, in which the discriminator learns alone"
        )
        ramp: NonNegativeInt = Field(1000, description="steps after `start` in which the generator's term grows")
        lecam: NonNegativeFloat = Field(
            0.0, description="weight of LeCam's regularisation (Tseng et al. 2021), which tames it where data are few"
        )
        channels: PositiveInt = Field(64, description="width of the discriminator's first layer")
        layers: PositiveInt = Field(3, description="convolutions of the discriminator that halve the size")
        norm: Literal["batch", "act"] = "batch"

    steps: torch.Tensor
    anchors: torch.Tensor

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        require_pictures(shapes, "adversarial", 3 << config.layers)
        self.config = config
        self.discriminator = PatchDiscriminator(config.channels, config.layers, config.norm)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        if config.lecam:
            self.register_buffer("anchors", torch.zeros(2))
        self._seen: list[torch.Tensor] = []

    def forward(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        task: str,
        reconstruction: torch.Tensor,
        last: nn.Parameter | None,
    ) -> dict[str, torch.Tensor]:
        step, config = int(self.steps), self.config
        if step < config.start - config.lead:
            return {"discriminator": 0 * torch.stack([p.sum() for p in self.parameters()]).sum()}
        losses = {"discriminator": config.discriminator_weight * self._telling_apart(outputs.detach(), targets)}
        if step >= config.start and outputs.requires_grad:
            generator = self._fooling(outputs)
            weight = config.weight * min(1.0, (step - config.start + 1) / (config.ramp + 1))
            if config.adaptive:
                at = last if last is not None and last.requires_grad else outputs
                generator = adaptive_weight(reconstruction, generator, at) * generator
            losses["generator"] = weight * generator
        return losses

    def _telling_apart(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        real, fake = self.discriminator(targets).float(), self.discriminator(outputs).float()
        loss = discriminator_loss(real, fake, self.config.loss)
        if self.config.lecam:
            loss = loss + self.config.lecam * lecam(real, fake, self.anchors)
            if self.training:
                self._seen.append(torch.stack([real.detach().mean(), fake.detach().mean()]))
        return loss

    def _fooling(self, outputs: torch.Tensor) -> torch.Tensor:
        """The generator's term; none of its gradient reaches the discriminator."""
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        fake = functional_call(self.discriminator, fixed, (outputs,)).float()
        return F.softplus(-fake).mean() if self.config.loss == "nonsaturating" else -fake.mean()

    @torch.no_grad()
    def end_step(self) -> None:
        self.steps += 1
        if self._seen:
            seen = torch.stack(self._seen)
            count, total = sum_over_ranks(seen.new_tensor([len(seen)]), seen.sum(0, keepdim=True))
            self.anchors.lerp_(total[0] / count, 1 - ANCHOR_DECAY)
            self._seen.clear()


def adaptive_weight(reconstruction: torch.Tensor, generator: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """|d reconstruction / d at| / (|d generator / d at| + 1e-4), at most 1e4, without gradient (Esser et al. 2021,
    equation 7, with the released code's constants)."""
    wanted, given = (torch.autograd.grad(loss, at, retain_graph=True)[0].norm() for loss in (reconstruction, generator))
    return (wanted / (given + EPS)).clamp(max=LARGEST).detach()


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, kind: str) -> torch.Tensor:
    """Answers to pictures and to reconstructions, of any shape -> hinge loss or cross entropy, halved as published."""
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def lecam(real: torch.Tensor, fake: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """LeCam's regularisation: answers stay within reach of the other side's average answer, `anchors` [real, fake]
    (Tseng et al. 2021, section 3.2, one-sided as in the released code)."""
    return F.relu(real - anchors[1]).square().mean() + F.relu(anchors[0] - fake).square().mean()


@hookimpl
def cynosure_register(register: Any) -> None:
    register.criterion("adversarial", Adversarial)
