"""How fast does UViM train? Stage I, extraction of codes, the code cache, and a timm ViT beside ours; one thread.

OMP_NUM_THREADS=1 python benchmarks/uvim_speed/training.py --size base
python benchmarks/uvim_speed/training.py --size paper --batch 32 --device cuda --compile
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import replace

import torch
from measuring import Work, count_flops, measure
from models import SIZES, Size, guided_model, random_batch, vit_encoder
from torch import nn

from cynosure.compat import import_timm
from cynosure.core.guided import GuidedModel, Stage
from cynosure.core.records import Batch
from cynosure.train.compute import compile_blocks, recompute_blocks


def step(model: GuidedModel, batch: Batch, stage: Stage) -> Work:
    """Forward and backward pass of a stage; in bf16 on a GPU."""

    def work() -> None:
        model.set_stage(stage)
        with _autocast(batch.keys.device):
            loss = model(batch, stage).loss
        loss.backward()
        model.zero_grad()

    return work


def extraction(model: GuidedModel, batch: Batch) -> Work:
    """The oracle's codes of a batch, as the code cache has them written."""

    def work() -> None:
        model.set_stage(None)
        with _autocast(batch.keys.device):
            model.encode(batch)

    return work


def trunk_step(trunk: Callable[[torch.Tensor], torch.Tensor], parameters: nn.Module, image: torch.Tensor) -> Work:
    """Forward and backward pass of a ViT alone."""

    def work() -> None:
        with _autocast(image.device):
            loss = trunk(image).float().square().mean()
        loss.backward()
        parameters.zero_grad()

    return work


def timm_trunk(size: Size) -> nn.Module | None:
    """timm's ViT of the shape of the prior's encoder; None where timm does not load."""
    try:
        import_timm()
    except ImportError:
        return None
    vit = importlib.import_module("timm.models.vision_transformer").VisionTransformer
    trunk = size.prior
    return vit(
        img_size=size.image,
        patch_size=size.patch,
        embed_dim=trunk.dim,
        depth=trunk.depth,
        num_heads=trunk.heads,
        num_classes=0,
        class_token=False,
        global_pool="",
    )


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _works(size: Size, model: GuidedModel, device: torch.device) -> dict[str, Work]:
    batch = random_batch(size, device)
    works = {"stage I step": step(model, batch, "codes"), "extraction": extraction(model, batch)}
    if model.prior is None:
        return works
    works["prior step, cached"] = step(model, random_batch(size, device, codes=True), "prior")
    works["prior step, encoding"] = step(model, batch, "prior")
    ours, theirs = vit_encoder(size).to(device), timm_trunk(size)
    works["ViT step"] = trunk_step(lambda image: ours({"image": image}, ""), ours, batch.inputs["image"])
    if theirs:
        works["ViT step, timm"] = trunk_step(theirs.to(device), theirs, batch.inputs["image"])
    return works


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES[options.size]
    size = replace(size, image=options.image or size.image, batch=options.batch or size.batch)
    model = guided_model(size, with_prior=not options.stage_one).to(options.device)
    works = _works(size, model, options.device)
    flops = {name: count_flops(work) for name, work in works.items()}  # before what compiling and recomputing change
    if options.compile:
        compile_blocks(model)
    if options.checkpointing:
        recompute_blocks(model)
    dtype = torch.bfloat16 if options.device.type == "cuda" else torch.float32
    times, limits = measure(works, options.repeats, options.device, dtype)
    print(f"{options.size}: {size.image} px, batch {size.batch}; {limits}")
    for name, seconds in times.items():
        print(
            f"{name:21} {size.batch / seconds:8.2f} images/s  {flops[name] / size.batch / 1e9:8.2f} GFLOP an image  "
            f"{limits.seconds(flops[name]) / seconds:4.0%} of the matrix product's rate"
        )
    _compare(times)


def _compare(times: dict[str, float]) -> None:
    if "ViT step" in times:
        print(f"codes from the cache: {times['prior step, encoding'] / times['prior step, cached']:.2f} times as fast")
        if "ViT step, timm" in times:
            print(f"our ViT: {times['ViT step, timm'] / times['ViT step']:.2f} times as fast as timm's")
        else:
            print("timm does not load: no comparison")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--image", type=int, help="pixels on the side, instead of the size's own")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--stage-one", action="store_true", help="leave out the prior, which takes most of the memory")
    parser.add_argument("--compile", action="store_true", help="compile the transformer blocks")
    parser.add_argument("--checkpointing", action="store_true", help="compute blocks again in the backward pass")
    return parser.parse_args()


if __name__ == "__main__":
    main()
