"""How fast is the nearest-codeword search? Ours, a bare matrix product, and vector-quantize-pytorch if installed.

OMP_NUM_THREADS=1 python benchmarks/vq_search.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

import torch

from cynosure_plugins.quantizers.codebook import nearest

Work = Callable[[], object]
LIBRARY = "vector-quantize-pytorch"


def best_times(works: Mapping[str, Work], repeats: int) -> dict[str, float]:
    """CPU seconds of the fastest run of each, taking turns, so that a busy moment of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            times[name].append(time.process_time() - start)
    return {name: min(runs[1:]) for name, runs in times.items()}


def peak_memory(work: Work) -> float:
    """Most bytes that tensors made by `work` hold at once."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return float(sizes.cumsum(0).max())


def report(works: Mapping[str, Work], repeats: int) -> None:
    """Prints time and memory of the bare product, of ours, and of the library if it is among them."""
    times = best_times(works, repeats)
    product = times["matrix product"]
    for name, work in works.items():
        memory = peak_memory(work) / 2**20
        print(f"{name:24} {times[name]:7.3f} s  {times[name] / product:5.2f} x the product  {memory:6.0f} MB at most")
    if LIBRARY in times:
        print(f"cynosure is {times[LIBRARY] / times['cynosure']:.2f} times as fast as the library")
    else:
        print(f"{LIBRARY} is not installed: no comparison")


def arguments(description: str | None, vectors: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=vectors)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--codewords", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def library(vectors: torch.Tensor, codewords: torch.Tensor) -> Mapping[str, Work]:
    try:
        from vector_quantize_pytorch import VectorQuantize  # type: ignore[import-not-found]
    except ImportError:
        return {}
    part = VectorQuantize(dim=codewords.shape[1], codebook_size=len(codewords)).eval()
    part._codebook.embed.data.copy_(codewords[None])
    part._codebook.initted.fill_(True)
    return {LIBRARY: lambda: part(vectors[None])}


@torch.no_grad()
def main() -> None:
    options = arguments(__doc__, vectors=4096).parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    vectors, codewords = torch.randn(options.vectors, options.dim), torch.randn(options.codewords, options.dim)
    table = codewords.t().contiguous()
    works: dict[str, Work] = {
        "matrix product": lambda: vectors @ table,
        "cynosure": lambda: nearest(vectors, codewords),
    }
    report(works | library(vectors, codewords), options.repeats)


if __name__ == "__main__":
    main()
