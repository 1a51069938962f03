"""Tensors that FSDP has cut into shards, one a process; everything here leaves plain tensors as they are."""

from __future__ import annotations

from typing import cast

import torch


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this process holds only a shard of the tensor (a DTensor, whose import every run would pay for)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, on every process; all of them must ask for it."""
    return cast(torch.Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, in the same memory: enough for all that goes element by element."""
    return cast(torch.Tensor, tensor.to_local()) if hasattr(tensor, "to_local") else tensor


def sharded_like(like: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a tensor that every process has whole, cut as `like` is; nothing is sent."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    mesh, placements = cast(DTensor, like).device_mesh, cast(DTensor, like).placements
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)
