"""How fast is the nearest-codeword search? Ours, a bare matrix product, and vector-quantize-pytorch if installed.

OMP_NUM_THREADS=1 python benchmarks/vq_search.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

import torch

from cynosure_plugins.quantizers.codebook import nearest


def best_times(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of the fastest run of each, taking turns, so that a busy moment of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: min(runs[1:]) for name, runs in times.items()}


def library(vectors: torch.Tensor, codewords: torch.Tensor) -> Callable[[], object] | None:
    try:
        from vector_quantize_pytorch import VectorQuantize  # type: ignore[import-not-found]
    except ImportError:
        return None
    part = VectorQuantize(dim=codewords.shape[1], codebook_size=len(codewords)).eval()
    part._codebook.embed.data.copy_(codewords[None])
    part._codebook.initted.fill_(True)
    return lambda: part(vectors[None])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--codewords", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    vectors, codewords = torch.randn(options.vectors, options.dim), torch.randn(options.codewords, options.dim)
    table = codewords.t().contiguous()
    works: dict[str, Callable[[], object]] = {
        "matrix product": lambda: vectors @ table,
        "cynosure": lambda: nearest(vectors, codewords),
    }
    if other := library(vectors, codewords):
        works["vector-quantize-pytorch"] = other
    times = best_times(works, options.repeats)
    for name, seconds in times.items():
        print(f"{name:24} {seconds:7.3f} s  {seconds / times['matrix product']:5.2f} x the product")
    if other:
        print(f"cynosure is {times['vector-quantize-pytorch'] / times['cynosure']:.2f} times as fast as the library")
    else:
        print("vector-quantize-pytorch is not installed: no comparison")


if __name__ == "__main__":
    main()
