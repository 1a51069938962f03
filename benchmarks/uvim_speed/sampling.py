"""How fast does UViM's prior write 256 codes? Cached, uncached, and a decoder of transformers if installed; one thread.

The image encoder, which runs once whatever the decoder does, is left out.

OMP_NUM_THREADS=1 python benchmarks/uvim_speed/sampling.py --size base --batch 1
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any, cast

import torch
from measuring import Work, count_flops, matrix_vector, measure, share_in_products
from models import SIZES, TASK, Features, Size, decoder

from cynosure.compat import repair_torchvision
from cynosure.core.records import SampleSettings
from cynosure_plugins.priors.autoregressive import Autoregressive

GREEDY = SampleSettings(temperature=0.0)
STRIDE = 32
"""Every how many positions sampling without a cache is timed; all would take minutes."""


def uncached(prior: Autoregressive, features: torch.Tensor) -> Work:
    """One pass over what is written at every `STRIDE`-th position, as sampling without a cache does at all of them."""
    inputs, blocks = {"features": features}, cast(Any, prior.blocks)
    x = torch.randn(len(features), prior.positions.shape[1], prior.config.dim).to(features)

    @torch.no_grad()
    def work() -> None:
        keys_values = prior._project(inputs, len(features), TASK)
        for length in range(STRIDE // 2, x.shape[1], STRIDE):
            y = x[:, :length]
            for block, kv in zip(blocks, keys_values, strict=True):
                y = block(y, kv)
            prior.head(prior.norm(y[:, -1]))

    return work


def teacher_forced(prior: Autoregressive, features: torch.Tensor) -> Work:
    """One pass over all positions; sampling needs one for every position if training's pass is all there is."""
    tokens = torch.zeros(len(features), prior.positions.shape[1], dtype=torch.long, device=features.device)
    return torch.no_grad()(lambda: prior.logits({"features": features}, tokens, TASK))


def bytes_read(prior: Autoregressive, batch: int, context: int) -> int:
    """What sampling must read: for every position all weights, and the keys and values of context and past."""
    total, width = prior.positions.shape[1], prior.positions.element_size()
    read_once = {id(p) for name in ("embedding", "encoder") for p in getattr(prior, name).parameters()}
    read_once |= {id(block.cross.kv.weight) for block in cast(Any, prior.blocks)} | {id(prior.positions)}
    weights = sum(p.nbytes for p in prior.parameters() if id(p) not in read_once)
    row = 2 * prior.config.depth * prior.config.dim * width
    return total * (weights + batch * context * row) + batch * row * total * (total + 1) // 2


def bart(size: Size, features: torch.Tensor, codes: int) -> Work | None:
    """BART's decoder of the same shape, greedy with its cache; None where transformers does not load."""
    repair_torchvision()  # transformers imports it
    try:
        library = importlib.import_module("transformers")
    except ImportError:
        return None
    library.logging.set_verbosity_error()
    trunk = size.prior
    config = library.BartConfig(
        vocab_size=size.vocab,
        max_position_embeddings=codes + 2,
        d_model=trunk.dim,
        encoder_layers=1,
        encoder_attention_heads=trunk.heads,
        decoder_layers=trunk.depth,
        decoder_attention_heads=trunk.heads,
        decoder_ffn_dim=4 * trunk.dim,
        forced_eos_token_id=None,
        use_cache=True,
    )
    model = library.BartForConditionalGeneration(config).eval().to(features)
    encoded = library.modeling_outputs.BaseModelOutput(last_hidden_state=features)

    @torch.no_grad()
    def work() -> Any:
        written = model.generate(
            encoder_outputs=encoded, do_sample=False, num_beams=1, min_new_tokens=codes, max_new_tokens=codes
        )
        assert written.shape[1] == codes + 1
        return written

    return work


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, device = SIZES[options.size], options.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    prior = decoder(size, Features(size.prior.dim)).eval().requires_grad_(False).to(device, dtype)
    codes = prior.positions.shape[1]
    for batch in options.batch:
        features = torch.randn(batch, options.context, size.prior.dim, device=device, dtype=dtype)
        seeds = torch.arange(batch, device=device)
        works: dict[str, Work] = {
            "sample": lambda: prior.sample({"features": features}, TASK, GREEDY, seeds),  # noqa: B023
            "uncached": uncached(prior, features),
            "teacher-forced": teacher_forced(prior, features),
        }
        works["same width"], streamed = matrix_vector(size.prior.dim, device, dtype)
        peer = bart(size, features, codes)
        if peer:
            works["bart"] = peer
        times, limits = measure(works, options.repeats, device, dtype)
        seconds, flops = times["sample"], count_flops(works["sample"])
        read = bytes_read(prior, batch, options.context + 1)
        print(f"{options.size}, batch {batch}, {codes} codes, {options.context} patches; {limits}")
        prefixes, passes = times["uncached"] * STRIDE / seconds, times["teacher-forced"] * codes / seconds
        print(
            f"  {batch / seconds:.3f} images/s: {passes:.1f} x a teacher-forced pass for every code, "
            f"{prefixes:.1f} x passes over what is written"
        )
        print(f"  {share_in_products(works['sample'], device):.0%} of the time in matrix products")
        print(
            f"  {limits.seconds(flops, read) / seconds:.0%} of the limit: arithmetic {limits.seconds(flops):.3f} s, "
            f"reading {limits.seconds(0, read):.3f} s, measured {seconds:.3f} s"
        )
        rate = streamed / times["same width"]
        print(f"  matrix-vector products of this width read {rate / 1e9:.1f} GB/s: reading alone {read / rate:.3f} s")
        if peer:
            print(f"  {times['bart'] / seconds:.2f} times as fast as BART's decoder in transformers")
        else:
            print("  transformers is not installed: no comparison")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--context", type=int, default=256, help="patches that the decoder attends to")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
