"""FSDP2: parameters, gradients and optimizer state in shards, one a process, for models that outgrow a device.

accelerate's configuration turns it on (`ACCELERATE_USE_FSDP=true FSDP_VERSION=2`, which `accelerate launch` sets), but
the sharding is done here, by torch: accelerate knows of no shards on CPUs, wraps one module whose `forward` is all that
is ever called, and moves the codebook's buffers to where they cannot be loaded from.

Every transformer block is one unit, the rest of the base, of the tokenizer and of the prior one more each: a unit's
parameters are gathered when it runs. Buffers, criteria, and the few parameters that cannot be cut, stay whole on every
process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import FullyShardedDataParallelPlugin, is_torch_version
from torch import nn

from cynosure.core.blocks import CrossAttention, TransformerBlock
from cynosure.core.contracts import Criterion, Quantizer
from cynosure.core.guided import GuidedModel
from cynosure.core.shards import is_sharded, whole
from cynosure.errors import TrainingError

TORCH = "2.13"
METHODS = ("vectors", "soft_codes", "penalties", "loss", "sample", "modulate")
"""What is called of units besides `forward`."""


def wanted() -> bool:
    """Whether the launcher asks for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def check_settings() -> None:
    """Raises TrainingError for settings of the launcher that cannot be met."""
    if not wanted():
        return
    plugin = FullyShardedDataParallelPlugin()
    advice = {
        f"install torch {TORCH} or newer": not is_torch_version(">=", TORCH),
        "set fsdp_version: 2": plugin.fsdp_version != 2,
        "set fsdp_offload_params: false": os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true",
        "set fsdp_cpu_ram_efficient_loading: false": plugin.cpu_ram_efficient_loading,
        "set fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP": plugin.min_num_params is not None,
        "set fsdp_activation_checkpointing: false, and train.checkpointing: true in the recipe": (
            plugin.activation_checkpointing
        ),
    }
    if problems := [what for what, wrong in advice.items() if wrong]:
        raise TrainingError(f"FSDP as it is configured cannot train this model: {'; '.join(problems)}.")


def shard(model: GuidedModel) -> None:
    """Cut the model's parameters into shards, in place and for good, if the launcher asks for it."""
    if not (wanted() and torch.distributed.is_initialized()):
        return
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    ignored = set(_uncut(model))
    for parameter in set(model.parameters()) - ignored:
        parameter.data = parameter.data.contiguous()  # all that FSDP takes; channels-last kernels are not
    parts = [part for part in model.children() if part is not model.criteria]
    for unit in [*_blocks(model), *parts]:
        fully_shard(unit, reshard_after_forward=_reshards(), ignored_params=ignored)
        for method in METHODS:
            if hasattr(unit, method):
                register_fsdp_forward_method(unit, method)
    for parameter in ignored:  # which of them learn, each stage says anew
        parameter.requires_grad_().register_post_accumulate_grad_hook(_average_gradient)


def _reshards() -> bool:
    return bool(FullyShardedDataParallelPlugin().reshard_after_forward)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Inner ones first. Keys and values of a context are projected apart from the block that they belong to."""
    names = FullyShardedDataParallelPlugin().transformer_cls_names_to_wrap or ()
    modules = reversed(list(model.modules()))
    return [
        m.kv if isinstance(m, CrossAttention) else m
        for m in modules
        if isinstance(m, (TransformerBlock, CrossAttention)) or type(m).__name__ in names
    ]


def _uncut(model: nn.Module) -> Iterator[nn.Parameter]:
    """Codebooks, which replace their unused entries where they lie, criteria, which share the base's graph, and
    numbers."""
    for module in model.modules():
        if isinstance(module, Quantizer | Criterion):
            yield from module.parameters()
    yield from (p for p in model.parameters() if p.ndim == 0)


def _average_gradient(parameter: torch.Tensor) -> None:
    """What DDP does; averaging again after the next micro-batch leaves what is already averaged as it is."""
    assert parameter.grad is not None
    torch.distributed.all_reduce(parameter.grad)
    parameter.grad /= torch.distributed.get_world_size()


def prepare(
    accelerator: Accelerator, model: GuidedModel, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Model and optimizer as a stage trains them: wrapped by accelerate, unless the model is in shards."""
    if _sharded_units(model):
        return model, accelerator.prepare_optimizer(optimizer)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    return wrapped, prepared


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """The block has all weights whole on every process, and may call any part as often as each process likes.

    Weights that change inside the block are not kept.
    """
    units = _sharded_units(model)
    if not units:
        yield
        return
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, 0)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(_reshards(), recurse=False)


def _sharded_units(model: nn.Module) -> list[Any]:
    if not any(is_sharded(p) for p in model.parameters()):
        return []
    from torch.distributed.fsdp import FSDPModule

    return [m for m in model.modules() if isinstance(m, FSDPModule)]


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> torch.Tensor:
    """Scale all gradients so that their common norm is at most `most`; returns the norm before that."""
    kinds = [[p for p in parameters if is_sharded(p) == sharded] for sharded in (False, True)]
    norms = [_norm(p.grad for p in kind if p.grad is not None) for kind in kinds if kind]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for kind in kinds:
        torch.nn.utils.clip_grads_with_norm_(kind, most, norm)
    return norm


def _norm(gradients: Iterable[torch.Tensor]) -> torch.Tensor:
    return whole(torch.nn.utils.get_total_norm(list(gradients)))
