"""How fast does `rq_transformer` sample with its caches, and how near is that to the bare matrix products of a sample?

OMP_NUM_THREADS=1 python benchmarks/rq_sampling.py
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional as F
from vq_search import Work, best_times

from cynosure.core.records import CodeSpec, SampleSettings, Segment, Shapes
from cynosure.testing.samples import Oracle
from cynosure_plugins.priors.rq_transformer import RQTransformer
from cynosure_plugins.quantizers.rq import ResidualQuantizer

TASK = "image"
POSITIONS, DEPTH, CODE_DIM = 64, 4, 256


def linears(*stacks: nn.Module) -> list[nn.Linear]:
    return [layer for stack in stacks for layer in stack.modules() if isinstance(layer, nn.Linear)]


def products(prior: RQTransformer, batch: int) -> Work:
    """The linear layers that one sample of 8 x 8 x 4 codes passes, in that order, on vectors that do not change."""
    vectors = {width: torch.randn(batch, width) for width in (prior.config.dim, prior.config.mlp_dim)}
    body, head = linears(prior.body), linears(prior.head, prior.classifiers)

    def work() -> None:
        for _ in range(POSITIONS):
            for layer in body + DEPTH * head:
                F.linear(vectors[layer.in_features], layer.weight, layer.bias)

    return work


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"dim": 256, "body": 6, "head": 2, "heads": 4, "codewords": 1024, "batch": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shapes = Shapes((64, 64), {TASK: 3}, CodeSpec((Segment("codes", POSITIONS, DEPTH, options.codewords),)), CODE_DIM)
    config = RQTransformer.Config(
        dim=options.dim,
        depth=options.body,
        head_depth=options.head,
        heads=options.heads,
        mlp_dim=4 * options.dim,
    )
    prior = RQTransformer(config, shapes, None).eval()
    oracle = Oracle(shapes)
    oracle.quantizer = ResidualQuantizer(
        ResidualQuantizer.Config(vocab_size=options.codewords, dim=CODE_DIM, depth=DEPTH)
    )
    prior.attach(oracle)
    seeds = torch.arange(options.batch)
    settings = {
        "all codes": SampleSettings(),
        "top-k 250": SampleSettings(top_k=250),
        "top-p 0.92": SampleSettings(top_p=0.92),
    }
    works: dict[str, Work] = {"matrix products": products(prior, options.batch)}
    works |= {name: lambda s=s: prior.sample({}, TASK, s, seeds) for name, s in settings.items()}  # type: ignore[misc]
    times = best_times(works, options.repeats)
    for name, seconds in times.items():
        share = times["matrix products"] / seconds
        print(f"{name:16} {1000 * seconds / options.batch:7.1f} ms CPU an image  products are {share:4.0%} of it")


if __name__ == "__main__":
    main()
