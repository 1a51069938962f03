"""What the speed benchmarks share: fair timing, counted arithmetic, and what this machine can do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution", "cudnn_convolution", "convolution_backward"}
PRODUCT_SIDE = 2048
STREAM_WIDTH = 1024
STREAM_BYTES = 400_000_000
"""What one pass of matrix-vector products reads: more than any cache holds."""


@dataclass(frozen=True)
class Limits:
    """What the machine did in this run: `flops` per second in a large matrix product, `bytes` per second read by
    matrix-vector products."""

    flops: float
    bytes: float

    def seconds(self, flops: float, read: float = 0.0) -> float:
        """The least time for so many floating-point operations and bytes read."""
        return max(flops / self.flops, read / self.bytes)

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.0f} GFLOP/s in a matrix product, {self.bytes / 1e9:.1f} GB/s in matrix-vector ones"


def measure(
    works: Mapping[str, Work], repeats: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, float], Limits]:
    """Median seconds of every work, and the limits measured between them: all take turns, so that a busy moment of the
    machine hits all alike. On a CPU these are processor seconds of one thread."""
    x = torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, device=device, dtype=dtype)
    stream, read = matrix_vector(STREAM_WIDTH, device, dtype)
    limits: dict[str, Work] = {"product": lambda: x @ x, "stream": stream}
    times: dict[str, list[float]] = {name: [] for name in (*limits, *works)}
    for turn in range(repeats + 1):
        for name, work in {**limits, **works}.items():
            start = _clock(device)
            work()
            if turn:  # the first is a warm-up
                times[name].append(_clock(device) - start)
    medians = {name: statistics.median(runs) for name, runs in times.items()}
    return medians, Limits(2 * PRODUCT_SIDE**3 / medians.pop("product"), read / medians.pop("stream"))


def matrix_vector(width: int, device: torch.device, dtype: torch.dtype) -> tuple[Work, int]:
    """Products of [4 width, width] matrices, as in a transformer, with a vector each, and the bytes that they read."""
    count = STREAM_BYTES // (4 * width * width * dtype.itemsize) + 1
    matrices = torch.randn(count, 4 * width, width, device=device, dtype=dtype)
    vector = torch.randn(1, width, device=device, dtype=dtype)
    return lambda: [linear(vector, matrix) for matrix in matrices], matrices.nbytes


def _clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def count_flops(work: Work) -> int:
    """Floating-point operations in matrix products, convolutions and attention; a multiply-add is two."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the CPU's own is not counted
        work()
    return counter.get_total_flops()


def share_in_products(work: Work, device: torch.device) -> float:
    """Share of the time that operators spend in matrix products, convolutions and attention.

    Profiling makes every operator slower by about the same, so programs of many small operators look worse than they
    are.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        work()
    time_of = "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
    times = {e.key.removeprefix("aten::"): getattr(e, time_of) for e in profiler.key_averages() if "aten::" in e.key}
    products = sum(t for name, t in times.items() if name in PRODUCTS or "_scaled_dot_product" in name)
    return products / sum(times.values())
