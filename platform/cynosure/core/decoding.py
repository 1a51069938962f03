"""Drawing codes from logits. Shapes: B batch, L code length, D depth, K vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cynosure.core.guidance import learned_guidance, require_guidance
from cynosure.core.records import CodeSpec, SampleSettings
from cynosure.errors import CynosureError

if TYPE_CHECKING:
    from cynosure.core.contracts import Prior

_MASK = (1 << 63) - 1


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The splitmix64 finaliser on int64 (wrapping): neighbouring inputs give unrelated outputs, on every device."""
    x = (x ^ ((x >> 30) & (_MASK >> 29))) * -4658895280553007687
    x = (x ^ ((x >> 27) & (_MASK >> 26))) * -7723592293110705685
    return x ^ ((x >> 31) & (_MASK >> 30))


def row_uniforms(seeds: torch.Tensor, count: int) -> torch.Tensor:
    """Uniforms in [0, 1), float32 [B, count], a pure function of each row's seed (int64 [B])."""
    counter = torch.arange(1, count + 1, device=seeds.device)
    bits = _mix(_mix(seeds)[:, None] + counter * -7046029254386353131)
    return ((bits >> 39) & 0xFFFFFF).to(torch.float32) / (1 << 24)


def outside(spec: CodeSpec, vocab_size: int | None = None) -> torch.Tensor | None:
    """Which of `vocab_size` tokens (by default K) are no code at which position, bool [L*D, K]; None where all
    positions have K codes."""
    if all(segment.limits == (spec.vocab_size,) * spec.depth for segment in spec.segments):
        return None
    return torch.arange(vocab_size or spec.vocab_size) >= spec.limits().flatten()[:, None]


def filter_logits(logits: torch.Tensor, top_k: int | None = None, top_p: float | None = None) -> torch.Tensor:
    """Logits [..., K] with -inf outside the k best and outside the smallest set that holds probability p."""
    if top_k is not None and top_k < logits.shape[-1]:
        worst = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < worst, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def draw(logits: torch.Tensor, settings: SampleSettings, uniforms: torch.Tensor, depth: int = 0) -> torch.Tensor:
    """One code of this depth for each row: logits [B, K] and uniforms [B] -> int64 [B]; temperature 0 takes the most
    likely."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    scaled = filter_logits(logits.float() / settings.temperature, *settings.at_depth(depth))
    cumulative = scaled.softmax(-1).double().cumsum(-1)
    picked = torch.searchsorted(cumulative, (uniforms.double() * cumulative[:, -1])[:, None], right=True)
    return picked.squeeze(-1).clamp_max(logits.shape[-1] - 1)


def draw_all(logits: torch.Tensor, settings: SampleSettings, uniforms: torch.Tensor, depth: int) -> torch.Tensor:
    """Codes of whole sequences at once, ordered by position, then by depth: logits [B, L*D, K] and uniforms [B, L*D]
    -> int64 [B, L*D]; `depth` is D."""
    levels = [
        draw(logits[:, d::depth].flatten(0, 1), settings, uniforms[:, d::depth].flatten(), d).view(len(logits), -1)
        for d in range(depth)
    ]
    return torch.stack(levels, -1).flatten(1)


def check_settings(settings: SampleSettings, prior: Prior, spec: CodeSpec) -> None:
    """Raises CynosureError, saying all of it, for settings that the prior of such codes would not follow."""
    problems = []
    for name, values in (("top_k", settings.top_k), ("top_p", settings.top_p)):
        if isinstance(values, tuple) and len(values) != spec.depth:
            told = f"{name} has {len(values)} values, but codes have depth {spec.depth}"
            problems.append(f"{told}: give one value, or one for each depth")
    if settings.steps is not None and not prior.takes_steps:
        problems.append("this prior does not write in rounds, so it has no use for steps: leave steps out")
    try:
        require_guidance(settings.guidance, learned_guidance(prior))
    except CynosureError as error:
        problems.append(str(error))
    if problems:
        raise CynosureError(". ".join(problems))
