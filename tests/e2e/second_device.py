"""A device that is not the CPU, on any machine: it computes on the CPU, and refuses what a GPU refuses.

As a pytest plugin, `pytest -p second_device`, all models of the tests live there. Tensors of the device and of the CPU
in one operation are an error, unless the latter are single numbers or indices; so is NumPy's view of the device's.
Memory, speed, autocast and random streams of a real GPU are not imitated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import accelerate
import pytest
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "seconddevice"
DEVICE = f"{NAME}:0"
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Operations whose indices may be on the CPU."""


class TwoDevices(RuntimeError):
    """An operation met tensors of both devices."""


class Resident(torch.Tensor):
    """A tensor of the device; `raw` is where it is computed."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> Resident:
        made: Resident = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=DEVICE,
        )
        made.raw = raw
        return made

    def __init__(self, raw: torch.Tensor) -> None:
        pass

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{NAME}({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.raw.tolist()

    def new_tensor(self, data: Any, **options: Any) -> torch.Tensor:
        return self.raw.new_tensor(data, **options).to(DEVICE)

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {NAME} tensor to numpy: copy it to the CPU first")

    __array__ = numpy


class Placing(TorchDispatchMode):
    """While it is on, tensors are made where they are asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """An operation on tensors of either device: its result is where a GPU's would be.

    Raises TwoDevices for tensors of both.
    """
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    here = {id(x.raw): x for x in tensors if isinstance(x, Resident)}
    elsewhere = [x for x in tensors if not isinstance(x, Resident)]
    device = kwargs.get("device")
    asked = device is not None and torch.device(device).type == NAME
    if not here and not asked:
        return func(*args, **kwargs)
    indexed = func in INDEXED and isinstance(args[0], Resident)
    if here and any(x.ndim for x in elsewhere) and func not in COPIES and not indexed:
        raise TwoDevices(f"{func} met tensors of {NAME} and of the CPU")
    args, kwargs = tree_map(_raw, (args, {**kwargs, "device": "cpu"} if asked else kwargs))
    result = func(*args, **kwargs)
    if func is aten._local_scalar_dense.default:
        return result
    if device is not None and not asked:
        return tree_map(lambda x: x.clone() if id(x) in here else x, result)

    def placed(x: Any) -> Any:
        return here[id(x)] if id(x) in here else Resident(x) if isinstance(x, torch.Tensor) else x

    return tree_map(placed, result)


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, Resident) else value


class _Module(backend_registration._DummyBackendModule):  # type: ignore[misc]
    """What PyTorch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


def _placed(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`torch.tensor` and the like copy without the operations that a device sees."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        tensor = make(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


def install() -> None:
    """Make the device the one that models are trained and loaded on."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    torch.tensor, torch.as_tensor = _placed(torch.tensor), _placed(torch.as_tensor)
    # the autograd of tensors that are wrapped knows no inference mode
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode is True else torch.no_grad()(mode)  # type: ignore

    from cynosure.core.guided import GuidedModel

    move = GuidedModel.to
    GuidedModel.to = lambda self, device: move(self, DEVICE)  # type: ignore[method-assign, assignment]
    accelerate.Accelerator.device = property(lambda self: torch.device(DEVICE))  # type: ignore[assignment]


def pytest_configure() -> None:
    install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with Placing():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Iterator[Any]:
    with Placing():
        return (yield)
