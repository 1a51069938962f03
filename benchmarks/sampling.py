"""How fast do `gpt`, `masked` and `rq_transformer` write a picture of 256 codes, against the plain way to do the same,
and how near is that to the bare matrix products? One thread, eight pictures at once. `units` are independent of the
machine: one is a product of 4096 x 256 by 256 x 16384 numbers, the search of 4096 vectors among 16384 codes.

OMP_NUM_THREADS=1 python benchmarks/sampling.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cynosure.core.blocks import Block
from cynosure.core.contracts import Prior
from cynosure.core.records import CodeSpec, SampleSettings, Segment, Shapes
from cynosure.testing.samples import Oracle
from cynosure_plugins.priors.gpt import GPT
from cynosure_plugins.priors.masked import Masked
from cynosure_plugins.priors.masking import MASK, gumbel, remask
from cynosure_plugins.priors.rq_transformer import RQTransformer
from cynosure_plugins.quantizers.rq import ResidualQuantizer

Work = Callable[[], object]
TASK = "image"
CODEWORDS, CODE_DIM, ROUNDS = 1024, 256, 8
SIZES = {"dim": 256, "heads": 4, "mlp_dim": 1024}
UNIT = (4096, 256, 16384)
STRIDE = 16
"""Every how many codes the plain way is timed; all would take minutes."""


@dataclass(frozen=True)
class Case:
    """A prior that samples, the same without cache or fused operators, and how often that must be done for all codes;
    the linear layers that a sample passes, with the vectors that each takes at once and how often."""

    prior: Prior
    plain: Work
    times: int
    linears: list[tuple[nn.Linear, int, int]]
    settings: Mapping[str, SampleSettings]
    inputs: Mapping[str, Any]


def linears(stack: nn.Module, vectors: int, times: int) -> list[tuple[nn.Linear, int, int]]:
    return [(layer, vectors, times) for layer in stack.modules() if isinstance(layer, nn.Linear)]


def shapes(positions: int, depth: int) -> Shapes:
    spec = CodeSpec((Segment("codes", positions, depth, CODEWORDS),))
    return Shapes((64, 64), {TASK: 3}, spec, CODE_DIM)


def loosen(prior: nn.Module) -> None:
    """Weights of a trained size: with heads at zero all codes would be alike."""
    for parameter in prior.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)


def gpt(batch: int) -> Case:
    known = shapes(256, 1)
    prior = GPT(GPT.Config(depth=8, **SIZES), known, None).eval()
    loosen(prior)
    tokens = torch.randint(CODEWORDS, (batch, 256))

    def plain() -> None:
        """One pass over all that is written, at every `STRIDE`-th code."""
        for length in range(STRIDE // 2, 256, STRIDE):
            prior._run(torch.cat([prior._prefix({}, batch, TASK), prior._embed(tokens[:, :length])], 1), 1)

    layers = [*linears(prior.blocks, batch, 256), (prior.head, batch, 256)]
    return Case(
        prior, plain, STRIDE, layers, {"all codes": SampleSettings(), "top-k 250": SampleSettings(top_k=250)}, {}
    )


def rq_transformer(batch: int) -> Case:
    known = shapes(64, 4)
    prior = RQTransformer(RQTransformer.Config(depth=6, head_depth=2, **SIZES), known, None).eval()
    loosen(prior)
    oracle = Oracle(known)
    oracle.quantizer = ResidualQuantizer(ResidualQuantizer.Config(vocab_size=CODEWORDS, dim=CODE_DIM, depth=4))
    prior.attach(oracle)

    def plain() -> None:
        """At every `STRIDE`-th code, the body over all positions before it, the head over all depths before it."""
        for code in range(STRIDE // 2, 256, STRIDE):
            x = torch.randn(batch, 1 + code // 4, prior.config.dim)
            for block in prior.body:
                x = block(x, causal=True)
            x = x[:, -1:].expand(-1, 1 + code % 4, -1)
            for block in prior.head:
                x = block(x, causal=True)
            prior.classifiers[0](prior.norm(x))

    layers = linears(prior.body, batch, 64) + linears(prior.head, batch, 256) + linears(prior.classifiers, batch, 256)
    settings = {
        "all codes": SampleSettings(),
        "top-k 250": SampleSettings(top_k=250),
        "top-p 0.92": SampleSettings(top_p=0.92),
    }
    return Case(prior, plain, STRIDE, layers, settings, {})


def masked(batch: int) -> Case:
    known = shapes(256, 1)
    prior = Masked(Masked.Config(depth=8, classes=10, task_tokens=False, **SIZES), known, None).eval()
    loosen(prior)
    inputs = {"label": torch.arange(batch) % 10}

    def plain() -> None:
        """As published: every code of every round is drawn by Gumbel noise, attention is three products."""
        ids = torch.full((batch, 256), MASK)
        initial = (ids == MASK).sum(1)
        for step in range(ROUNDS):
            x = unfused(prior, prior._prefix(inputs, batch, TASK), ids)
            logits = x[..., :CODEWORDS]
            drawn = (logits + gumbel(torch.rand_like(logits))).argmax(-1)
            done = (step + 1) / ROUNDS
            noise = (1 - done) * gumbel(torch.rand(batch, 256))
            _, ids = remask(logits, ids, drawn, noise, initial, done, "cosine")

    layers = linears(prior.blocks, batch * 257, ROUNDS)
    for layer in (prior.dense, nn.Linear(prior.config.dim, len(prior.table.weight))):
        layers.append((layer, batch * 256, ROUNDS))
    return Case(prior, plain, 1, layers, {f"{ROUNDS} rounds": SampleSettings(steps=ROUNDS)}, inputs)


def unfused(prior: Masked, prefix: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """`Masked.predict` with query, key, value and attention each for itself, and all tokens at the end."""
    codes = prior.table(ids % prior.table.num_embeddings) + prior.positions.weight[-ids.shape[1] :]
    x = prior.norm(torch.cat([prefix, codes], 1))
    for block in prior.blocks:
        assert isinstance(block, Block)
        attention = block.attention
        pieces = zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
        q, k, v = (F.linear(x, w, b).unflatten(-1, (attention.heads, -1)).transpose(1, 2) for w, b in pieces)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        x = block.norm1(x + attention.out((weights @ v).transpose(1, 2).flatten(2)))
        x = block.norm2(x + block.mlp(x))
    x = F.gelu(prior.dense(x[:, prefix.shape[1] :]), approximate="tanh")
    return F.linear(prior.head_norm(x), prior.table.weight, prior.bias)


def products(case: Case) -> Work:
    """The linear layers that one sample passes, on vectors that do not change."""
    vectors = {(n, layer.in_features): torch.randn(n, layer.in_features) for layer, n, _ in case.linears}

    def work() -> None:
        for turn in range(max(times for _, _, times in case.linears)):
            for layer, n, times in case.linears:
                if turn < times:
                    F.linear(vectors[n, layer.in_features], layer.weight, layer.bias)

    return work


def unit() -> Work:
    rows, inner, columns = UNIT
    vectors, codebook = torch.randn(rows, inner), torch.randn(columns, inner)
    return lambda: F.linear(vectors, codebook)


def best(works: Mapping[str, Work], repeats: int) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds of the fastest run of each, taking turns, so that a busy moment hits all alike."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time(), time.perf_counter()
            work()
            times[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return {name: min(runs[1:]) for name, runs in times.items()}


@torch.inference_mode()
def measure(name: str, case: Case, batch: int, repeats: int) -> None:
    seeds = torch.arange(batch)
    works: dict[str, Work] = {
        how: lambda s=s: case.prior.sample(case.inputs, TASK, s, seeds)  # type: ignore[misc]
        for how, s in case.settings.items()
    }
    works |= {"plain": case.plain, "products": products(case), "unit": unit()}
    times = best(works, repeats)
    plain, bare = case.times * times["plain"][0], times["products"][0]
    for how in case.settings:
        cpu, wall = times[how]
        print(
            f"{name:15} {how:11} {1000 * cpu / batch:5.1f} ms CPU an image ({1000 * wall / batch:.1f} ms wall; "
            f"{cpu / batch / times['unit'][0]:.2f} units of {1000 * times['unit'][0]:.0f} ms), "
            f"{plain / cpu:.2f} x as fast as plain ({1000 * plain / batch:.0f} ms), products are {bare / cpu:.0%} of it"
        )


def main() -> None:
    cases = {"gpt": gpt, "masked": masked, "rq_transformer": rq_transformer}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("priors", nargs="*", default=list(cases), metavar="PRIOR", help=f"of {', '.join(cases)}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for name in options.priors:
        measure(name, cases[name](options.batch), options.batch, options.repeats)


if __name__ == "__main__":
    main()
