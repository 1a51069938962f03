"""How fast is residual quantisation? Ours, the bare matrix products, and vector-quantize-pytorch if installed.

OMP_NUM_THREADS=1 python benchmarks/rq_search.py
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from vq_search import LIBRARY, Work, arguments, report

from cynosure_plugins.quantizers.rq import ResidualQuantizer


def library(vectors: torch.Tensor, codewords: torch.Tensor, depth: int) -> Mapping[str, Work]:
    try:
        from vector_quantize_pytorch import ResidualVQ  # type: ignore[import-not-found]
    except ImportError:
        return {}
    size, dim = codewords.shape
    part = ResidualVQ(dim=dim, codebook_size=size, num_quantizers=depth, shared_codebook=True).eval()
    for layer in part.layers:
        layer._codebook.embed.data.copy_(codewords[None])
        layer._codebook.initted.fill_(True)
    return {LIBRARY: lambda: part(vectors)}


@torch.no_grad()
def main() -> None:
    parser = arguments(__doc__, vectors=1024)
    parser.add_argument("--depth", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    vectors, codewords = torch.randn(1, options.vectors, options.dim), torch.randn(options.codewords, options.dim)
    table = codewords.t().contiguous()
    config = ResidualQuantizer.Config(vocab_size=options.codewords, dim=options.dim, depth=options.depth)
    part = ResidualQuantizer(config).eval()
    part.codebooks[0].begin(codewords, torch.ones(options.codewords))
    works: dict[str, Work] = {
        "matrix product": lambda: [vectors[0] @ table for _ in range(options.depth)],
        "cynosure": lambda: part(vectors),
    }
    report(works | library(vectors, codewords, options.depth), options.repeats)


if __name__ == "__main__":
    main()
