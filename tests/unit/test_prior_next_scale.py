"""The next_scale prior: what a scale reads, how it is sampled, and that it learns what coarser scales say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import make_model, open_session
from torch.nn import functional as F

from cynosure.core.contracts import Encoder
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment, Shapes
from cynosure.data.loading import evaluation_batches
from cynosure.errors import CynosureError
from cynosure.testing.samples import Oracle
from cynosure_plugins.encoders.label import LabelEncoder
from cynosure_plugins.priors import next_scale
from cynosure_plugins.priors.next_scale import NextScale
from cynosure_plugins.quantizers.multiscale import MultiscaleQuantizer

TINY = {"dim": 16, "depth": 2, "heads": 2, "mlp_dim": 32}
SCALES = (1, 2, 3)
LABELS = {"label": torch.tensor([0, 1, 2, 3])}
SEEDS = torch.tensor([3, 14, 15, 92])


class Several(Encoder):
    """Three vectors of context a label."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 8
        self.table = torch.nn.Embedding(10, 24)

    def forward(self, inputs: Any, task: str) -> torch.Tensor:
        return self.table(inputs["label"]).unflatten(1, (3, 8))


def make_quantizer(**options: Any) -> MultiscaleQuantizer:
    torch.manual_seed(0)
    quantizer = MultiscaleQuantizer(
        MultiscaleQuantizer.Config(**{"vocab_size": 16, "dim": 8, "scales": SCALES, **options})
    )
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return quantizer.eval()


def make_prior(quantizer: MultiscaleQuantizer, encoder: Encoder | None, **options: Any) -> NextScale:
    """All weights random and large enough to tell codes apart."""
    spec = CodeSpec(quantizer.segments(quantizer.side**2), (quantizer.side, quantizer.side))
    shapes = Shapes((32, 32), {"first": 3}, spec, quantizer.dim)
    prior = NextScale(NextScale.Config(**{**TINY, **options}), shapes, encoder)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    prior.attach(Oracle(shapes, quantizer))
    return prior.eval()


def make_label_encoder() -> LabelEncoder:
    return LabelEncoder(LabelEncoder.Config(classes=10, dim=8), Shapes((32, 32), {"first": 3}))


def sampled(
    prior: NextScale, settings: SampleSettings, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [B, L] and the logits [B, L, K] that they were drawn from."""
    seen: list[torch.Tensor] = []

    def draw(logits: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(logits.clone().view(len(SEEDS), -1, logits.shape[-1]))
        return original(logits, *rest)

    original = next_scale.draw
    monkeypatch.setattr(next_scale, "draw", draw)
    ids = prior.sample(LABELS, "first", settings, SEEDS).ids[..., 0]
    assert len(seen) == len(SCALES), "a scale is written in one step"
    return ids, torch.cat(seen, 1)


def half_known() -> torch.Tensor:
    known = torch.randint(16, (4, 14, 1), generator=torch.Generator().manual_seed(5))
    known[:, 1::2] = -1
    return known


@pytest.mark.parametrize("encoder", [None, make_label_encoder, Several], ids=["none", "one_vector", "several_vectors"])
@pytest.mark.parametrize("known", [None, half_known()], ids=["all", "half_known"])
def test_cached_sampling_draws_from_the_teacher_forced_probabilities(
    encoder: Any, known: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept codes included: what a finer scale reads is the sum with them."""
    prior = make_prior(make_quantizer(), encoder() if encoder else None)
    ids, drawn_from = sampled(prior, SampleSettings(temperature=1.3, top_k=9, top_p=0.9, known=known), monkeypatch)
    taught = prior.logits(LABELS, ids, "first")
    torch.testing.assert_close(drawn_from, taught, atol=1e-4, rtol=1e-4)
    loss = prior.loss(LABELS, Codes(ids[..., None], prior.spec), "first")["nll"]
    said = drawn_from.log_softmax(-1).gather(-1, ids[..., None])
    torch.testing.assert_close(loss, -said.mean(), atol=1e-4, rtol=1e-4)
    if known is not None:
        assert torch.equal(ids[known[..., 0] >= 0], known[known >= 0])


def test_a_scale_reads_coarser_scales_only() -> None:
    prior = make_prior(make_quantizer(), Several())
    ids = torch.randint(16, (4, 14))
    before = prior.logits(LABELS, ids, "first")
    for position, seen_from in ((0, 1), (1, 5), (4, 5), (5, 14), (13, 14)):
        other = ids.clone()
        other[:, position] = (other[:, position] + 1) % 16
        changed = (prior.logits(LABELS, other, "first") - before).abs().amax((0, 2)) > 1e-6
        wanted = torch.arange(14) >= seen_from
        assert torch.equal(changed, wanted), f"code {position} must be seen by codes {seen_from}, ... and by no others"


@pytest.mark.parametrize(("ramp", "scales"), [(True, (1.0, 2.0, 3.0)), (False, (3.0, 3.0, 3.0))])
def test_guidance_exaggerates_the_condition_and_grows_with_the_scale(
    ramp: bool, scales: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = make_prior(make_quantizer(), Several(), condition_dropout=0.1, guidance_ramp=ramp)
    ids, drawn_from = sampled(prior, SampleSettings(guidance=3.0), monkeypatch)
    conditional = prior.logits(LABELS, ids, "first")
    dropout = prior.prefix.condition
    monkeypatch.setattr(dropout, "forward", lambda context: dropout.null.expand_as(context))  # type: ignore[union-attr]
    null = prior.logits(LABELS, ids, "first")
    by_code = torch.tensor(scales).repeat_interleave(torch.tensor([1, 4, 9]))[:, None]
    torch.testing.assert_close(drawn_from, null + by_code * (conditional - null), atol=2e-4, rtol=1e-4)


def test_guidance_needs_training_without_the_condition() -> None:
    prior = make_prior(make_quantizer(), Several())
    with pytest.raises(CynosureError, match="condition_dropout"):
        prior.sample(LABELS, "first", SampleSettings(guidance=2.0), SEEDS)


def test_codes_without_scales_are_refused(tmp_path: Path) -> None:
    options = "name: next_scale, dim: 16, depth: 1, heads: 2, mlp_dim: 32"
    with pytest.raises(CynosureError, match="use quantizer multiscale in the tokenizer, or prior masked"):
        make_model(open_session(tmp_path, f"model.prior={{{options}}}"))  # its four codes could be one scale
    shapes = Shapes((32, 32), {"first": 3}, CodeSpec((Segment("codes", 6, 1, 16),)), 8)
    with pytest.raises(CynosureError, match="use quantizer multiscale"):
        NextScale(NextScale.Config(**TINY), shapes, None)
    with pytest.raises(ValueError, match="task_tokens: true"):
        make_prior(make_quantizer(), None, task_tokens=False)


def test_without_tokenizer_it_says_what_to_do() -> None:
    prior = make_prior(make_quantizer(), None)
    prior._quantizer.clear()
    with pytest.raises(CynosureError, match="attach"):
        prior.logits({}, torch.zeros(1, 14, dtype=torch.long), "first")


def test_the_tokenizer_is_no_part_of_the_prior() -> None:
    prior = make_prior(make_quantizer(), None)
    assert not [name for name in prior.state_dict() if "codewords" in name or "smooth" in name]
    prior.loss(LABELS, Codes(torch.zeros(4, 14, 1, dtype=torch.long), prior.spec), "first")["nll"].backward()
    assert all(parameter.grad is None for parameter in prior._quantizer[0].parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("depth", "published"), [(16, 310e6), (20, 600e6), (24, 1.0e9), (30, 2.0e9)])
def test_published_sizes(depth: int, published: float) -> None:
    """Parameters of VAR-d16 to d30 on 680 codes of 256 x 256 pixels."""
    with torch.device("meta"):
        quantizer = MultiscaleQuantizer(MultiscaleQuantizer.Config())
        spec = CodeSpec(quantizer.segments(256), (16, 16))
        shapes = Shapes((256, 256), {"first": 3}, spec, 32)
        encoder = LabelEncoder(LabelEncoder.Config(classes=1000, dim=64 * depth), shapes)
        config = NextScale.Config(
            dim=64 * depth,
            depth=depth,
            heads=depth,
            mlp_dim=256 * depth,
            condition_dropout=0.1,
            task_tokens=False,
        )
        prior = NextScale(config, shapes, encoder)
    assert sum(p.numel() for p in prior.parameters()) == pytest.approx(published, rel=0.04)


def eight_codes(quantizer: MultiscaleQuantizer) -> torch.Tensor:
    """Codes [8, 21, 1] of fields that vary slowly over a grid of 4 x 4 and whose coarsest codes differ."""
    coarse = torch.randn(200, 4, 2, 2, generator=torch.Generator().manual_seed(1)) * 3
    fields = F.interpolate(coarse, size=(4, 4), mode="bilinear").flatten(2).transpose(1, 2)
    codes = {int(ids[0]): ids for ids in quantizer(fields).ids}
    return torch.stack(list(codes.values())[:8])


def test_it_learns_what_the_label_and_coarser_scales_say() -> None:
    """A label names four of eight fields: the coarsest code says which, and all others follow from it."""
    quantizer = make_quantizer(vocab_size=64, dim=4, scales=(1, 2, 4))
    spec, every = CodeSpec(quantizer.segments(16), (4, 4)), eight_codes(quantizer)
    shapes = Shapes((32, 32), {"first": 3}, spec, 4)
    prior = NextScale(NextScale.Config(dim=32, depth=2, heads=4, mlp_dim=64), shapes, make_label_encoder())
    prior.attach(Oracle(shapes, quantizer))
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        prior.loss({"label": torch.arange(8) // 4}, Codes(every, spec), "first")["nll"].backward()
        optimizer.step()
    prior.eval()
    with torch.no_grad():
        learnt = float(prior.loss({"label": torch.arange(8) // 4}, Codes(every, spec), "first")["nll"])
    counts = F.one_hot(every[..., 0], 64).float().unflatten(0, (2, 4)).mean(1)
    independent = float(-torch.xlogy(counts, counts).sum(-1).mean())
    least = math.log(4) / 21
    assert learnt < 1.2 * least, f"{learnt:.3f} nats a code, {least:.3f} are needed"
    assert learnt < 0.2 * independent, f"{learnt:.3f} nats a code, {independent:.3f} if they were independent"
    labels = torch.arange(400) % 2
    drawn = prior.sample({"label": labels}, "first", SampleSettings(), torch.arange(400)).ids
    found = (drawn[:, None, :, 0] == every[:, :, 0]).all(-1)
    right = (found & (torch.arange(8) // 4 == labels[:, None])).any(1).float().mean()
    assert right > 0.9, f"only {right:.0%} of samples are all codes of a field of their label"
    assert found.any(0).all(), "every field must be drawn"


@pytest.mark.parametrize(
    "tokenizer",
    [
        "name: vqgan, channels: 32, multipliers: [1, 1, 1], blocks: 1, attention: [], z_channels: 4",
        "name: maskgit, channels: 32, multipliers: [1, 1, 1], blocks: 1",
        "name: vit_vqgan, patch: 4, dim: 16, depth: 1, heads: 2, mlp_dim: 32",
        "name: vit_oracle, patch: 4, dim: 16, depth: 1, heads: 2, mlp_dim: 32, code_grid: [4, 4], context: false",
    ],
)
def test_every_tokenizer_learns_scales(tokenizer: str, tmp_path: Path) -> None:
    """Both stages of a model train, and pictures come back from codes that the prior wrote."""
    session = open_session(
        tmp_path,
        f"model.tokenizer={{{tokenizer}, quantizer: {{name: multiscale, vocab_size: 16, dim: 4, scales: [1, 2, 4]}}}}",
        "model.base={name: vit_vqgan, patch: 4, dim: 16, depth: 1, heads: 2, mlp_dim: 32}",
        "model.prior={name: next_scale, dim: 16, depth: 1, heads: 2, mlp_dim: 32}",
    )
    model = make_model(session)
    batch = next(evaluation_batches(model.tasks["depth"], session.rows("depth", "test"), 4))
    for stage in ("codes", "prior"):
        model.set_stage(stage)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        losses = []
        for _ in range(15):
            optimizer.zero_grad()
            loss = model(batch, stage).loss
            loss.backward()
            optimizer.step()
            model.end_step()
            losses.append(float(loss.detach()))
        assert min(losses[-3:]) < 0.9 * losses[0], f"stage {stage} learns nothing: {losses[0]:.3f} to {losses[-1]:.3f}"
    model.set_stage(None)
    codes = model.encode(batch)
    assert tuple(codes.ids.shape) == (4, 21, 1) and codes.spec.grid == (4, 4)
    encoded = model._encode(batch)
    assert model.tokenizer is not None and encoded is not None
    torch.testing.assert_close(model.tokenizer.vectors(codes), encoded.vectors)
    drawn = model.codes(batch, "prior", SampleSettings(), batch.keys)
    assert drawn is not None and tuple(model.outputs(batch, drawn).shape) == (4, 1, 16, 16)


def test_half_precision_and_one_row() -> None:
    quantizer = make_quantizer()
    prior = make_prior(quantizer, Several(), condition_dropout=0.1)
    codes = Codes(torch.randint(16, (1, 14, 1)), prior.spec)
    row = {"label": torch.tensor([3])}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        halved = prior.loss(row, codes, "first")["nll"]
        assert quantizer.partials(codes.ids).dtype == torch.float32
        ids = prior.sample(row, "first", SampleSettings(guidance=2.0), SEEDS[:1]).ids
    assert halved.dtype == torch.float32 and ids.shape == (1, 14, 1)
    assert float(halved) == pytest.approx(float(prior.loss(row, codes, "first")["nll"].detach()), rel=0.02)
