"""What a training step costs, found out with tensors that have shapes and no values: no data, no time, no memory."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from cynosure.core.blocks import TransformerBlock
from cynosure.core.guided import GuidedModel, Stage
from cynosure.core.records import Batch

aten = torch.ops.aten
LARGE = 1_000_000
TYPES = {"bf16": torch.bfloat16, "fp16": torch.bfloat16}
"""Precision of a recipe -> a type of that width in which CPUs autocast."""


@dataclass(frozen=True)
class Cost:
    """One micro-batch: operations forward and backward (a multiply-add is two), bytes that wait for the backward pass,
    and how many would wait with `train.checkpointing`."""

    flops: int
    kept: int
    kept_recomputing: int


class Shadow:
    """A model whose tensors have no values any more; it computes nothing and still tells what computing costs.

    What a part decides by looking at a value is guessed: conditions hold, numbers are large (a quantizer is past its
    warm-up).
    """

    def __init__(self, model: GuidedModel) -> None:
        self.model = model
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        model._apply(self._empty)

    def cost(self, batch: Batch, size: int, stage: Stage, precision: str) -> Cost:
        """What `model.forward(batch, stage)` and its gradient cost for `size` copies of a batch of one."""
        batch = self._repeated(batch, size)
        kept, operations = Kept(self.model), _Operations()
        with self.mode, operations, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # copies of modules do
            with kept.watching(), torch.autocast("cpu", TYPES.get(precision), enabled=precision in TYPES):
                loss = self.model(batch, stage).loss
            loss.backward()
        return Cost(operations.flops, kept.total, kept.total_recomputing)

    def state_bytes(self, optimizer: torch.optim.Optimizer) -> int:
        """What the optimizer remembers after a step; of alike parameters of several blocks one is tried."""
        numbered = {p: re.sub(r"\d+", "*", name) for name, p in self.model.named_parameters()}
        alike: dict[Any, list[nn.Parameter]] = {}
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                parameter.grad = None
                alike.setdefault((number, numbered[parameter], parameter.shape), []).append(parameter)
        with self.mode, _Operations():
            for first, *_ in alike.values():
                first.grad = torch.empty_like(first)
            optimizer.step()
        return sum(len(same) * sum(map(_bytes, optimizer.state[same[0]].values())) for same in alike.values())

    def _empty(self, tensor: torch.Tensor) -> torch.Tensor:
        with self.mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)

    def _repeated(self, batch: Batch, size: int) -> Batch:
        def repeat(value: Any) -> Any:
            if torch.is_tensor(value):
                with self.mode:
                    return torch.empty(size, *value.shape[1:], dtype=value.dtype)
            return list(value) * size

        inputs, targets = ({k: repeat(v) for k, v in values.items()} for values in (batch.inputs, batch.targets))
        codes = None if batch.codes is None else repeat(batch.codes)
        keys, valid = repeat(batch.keys), repeat(batch.valid)
        return replace(batch, inputs=inputs, targets=targets, keys=keys, valid=valid, codes=codes)


class _Operations(TorchDispatchMode):
    """Counts floating-point operations, and answers where a program asks for a value that nobody has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            kind = args[0].dtype
            return True if kind == torch.bool else 1.0 * LARGE if kind.is_floating_point else LARGE
        if func is aten.bincount.default:
            return args[0].new_empty(args[2] if len(args) > 2 else kwargs.get("minlength", 0))
        output = func(*args, **kwargs)
        if count := _FLOPS.get(func._overloadpacket):
            self.flops += int(count(*args, **kwargs, out_val=output))
        return output


@dataclass
class Kept:
    """Bytes of the tensors that autograd keeps: each once, and no parameters or buffers."""

    model: nn.Module
    outside: int = 0
    inputs: int = 0
    blocks: dict[int, int] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    alive: list[torch.Tensor] = field(default_factory=list)
    block: int | None = None

    @property
    def total(self) -> int:
        return self.outside + sum(self.blocks.values())

    @property
    def total_recomputing(self) -> int:
        """With the inputs of all blocks, and one block at a time computed again."""
        return self.outside + self.inputs + max(self.blocks.values(), default=0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.seen |= {_storage(t) for t in (*self.model.parameters(), *self.model.buffers())}
        blocks = [m for m in self.model.modules() if isinstance(m, TransformerBlock)]
        handles = [b.register_forward_pre_hook(self._enter) for b in blocks]
        handles += [b.register_forward_hook(self._leave) for b in blocks]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            self.block = id(module)
            self.inputs += sum(_bytes(value) for value in arguments)

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.block = None

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in self.seen:
            self.seen.add(_storage(tensor))
            self.alive.append(tensor)  # else another tensor might be given the same address
            if self.block is None:
                self.outside += _bytes(tensor)
            else:
                self.blocks[self.block] = self.blocks.get(self.block, 0) + _bytes(tensor)
        return tensor


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(value: Any) -> int:
    """Bytes of a tensor, or of all tensors in a tuple."""
    if torch.is_tensor(value):
        return value.numel() * value.element_size()
    return sum(_bytes(each) for each in value) if isinstance(value, tuple | list) else 0


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(grad: torch.Tensor, query: torch.Tensor, *others: torch.Tensor, **_: Any) -> int:
    key, value = others[:2]
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


_FLOPS = {
    **flop_registry,
    # torch counts attention on accelerators only.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
