"""Two ranks for checks of quantizers: `on_two_ranks`."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cynosure.testing.ranks import AVAILABLE, State, on_two_ranks

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="processes cannot be forked here")


def test_no_rank_works_before_the_other_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that talks to nobody is soon done, and a rank that leaves makes the other's connection fail."""
    connect, connected = dist.init_process_group, []

    def connect_slowly(*args: Any, rank: int, **options: Any) -> None:
        connect(*args, rank=rank, **options)
        time.sleep(0.3 * rank)
        connected.append(time.monotonic())

    def work(rank: int) -> State:
        return {
            "connected": torch.tensor(connected, dtype=torch.float64),
            "began": torch.tensor(time.monotonic(), dtype=torch.float64),
        }

    monkeypatch.setattr(dist, "init_process_group", connect_slowly)
    first, second = on_two_ranks(work)
    assert first["began"] >= second["connected"]


def test_a_rank_that_fails_is_quoted() -> None:
    def work(rank: int) -> State:
        raise ValueError("no codebook")

    with pytest.raises(AssertionError, match=r"rank 0 raised ValueError: no codebook; rank 1 raised ValueError"):
        on_two_ranks(work)
