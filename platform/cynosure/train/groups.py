"""Parameter groups: what of a model a stage trains, by the options that an optimizer gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd as Convolution

from cynosure.core.shards import is_sharded
from cynosure.errors import TrainingError, did_you_mean


def parameter_groups(run: Any, options: Callable[[str, nn.Parameter], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parameters that the run's stage trains, for a torch optimizer: one group for all with equal `options(name,
    parameter)` and an equal factor of the stage's `lr_scale`. Every group has `lr`, at its peak, `lr_scale`, and the
    `names` of its parameters, by which checkpoints know their state.

    Raises TrainingError for prefixes in `lr_scale` that no such parameter has.
    """
    named = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    settings = run.settings
    check_prefixes(settings.lr_scale, named, f"train.{run.stage}.lr_scale", "parameter that this stage trains")
    groups: dict[Any, dict[str, Any]] = {}
    for name, parameter in named.items():
        scale = _scale(name, settings.lr_scale)
        own = {**options(name, parameter), "lr": settings.lr * scale, "lr_scale": scale}
        kind = is_sharded(parameter), *own.items()  # torch steps a whole group at once, all of it in shards or none
        group = groups.setdefault(kind, {"params": [], "names": [], **own})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | Convolution]]:
    """Linear layers and convolutions by name."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Convolution):
            yield name, module


def kernels(model: nn.Module) -> set[str]:
    """The names of what decays: weights of linear layers and convolutions. Vectors do not, nor do tables (embeddings,
    positions, codebooks), whose rows would shrink wherever no example needs them."""
    return {f"{name}.weight" for name, _ in layers(model)}


def _scale(name: str, scales: Mapping[str, float]) -> float:
    """The factor of the longest prefix."""
    prefix = max((p for p in scales if begins(name, p)), key=len, default=None)
    return 1.0 if prefix is None else scales[prefix]


def begins(name: str, prefix: str) -> bool:
    """Whether `prefix` begins `name`. Whole parts count: blocks.1 is no beginning of blocks.10."""
    return f"{name}.".startswith(f"{prefix}.")


def check_prefixes(prefixes: Iterable[str], names: Iterable[str], where: str, what: str) -> None:
    """Raises TrainingError, which says `where`, for prefixes that begin none of the names, `what`."""
    known = sorted({part for name in names for part in accumulate(name.split("."), "{}.{}".format)})
    wrong = [f"'{p}'{did_you_mean(p, known)}" for p in prefixes if p not in known]
    if wrong:
        raise TrainingError(f"{where}: no {what} begins with {'; nor with '.join(wrong)}.")
