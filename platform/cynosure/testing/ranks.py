"""Two processes of a real process group, for checks of what is added up over ranks."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

State = dict[str, torch.Tensor]
AVAILABLE = sys.platform == "linux" and dist.is_available()
"""Whether processes can be forked, and so need neither import anything nor be given what to do in a file."""
PATIENCE = 60
"""Seconds after which processes that wait for each other are stopped."""


def on_two_ranks(work: Callable[[int], State]) -> tuple[State, State]:
    """What `work(rank)` gives in each of two forked processes; AssertionError when one fails or both wait for ever."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [fork.Process(target=_rank, args=(Path(folder), rank, work)) for rank in (0, 1)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(PATIENCE)
            rank.kill()
        files = [Path(folder) / f"{rank}.pt" for rank in (0, 1)]
        told = [file.with_suffix(".txt") for file in files]
        assert all(file.is_file() for file in files), (
            "two ranks do not get through a step: " + "; ".join(file.read_text() for file in told if file.is_file())
            or "they wait for each other; all ranks must take part in every collective operation"
        )
        first, second = (torch.load(file, weights_only=True) for file in files)
    return first, second


def _rank(folder: Path, rank: int, work: Callable[[int], State]) -> None:
    torch.set_num_threads(1)  # the threads of the process that was forked are not there
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    dist.barrier()  # connected on both sides: `work` that talks to nobody could leave while the other still connects
    try:
        torch.save(work(rank), folder / f"{rank}.part")
        (folder / f"{rank}.part").rename(folder / f"{rank}.pt")
    except Exception as error:
        (folder / f"{rank}.txt").write_text(f"rank {rank} raised {type(error).__name__}: {error}")
    dist.destroy_process_group()
