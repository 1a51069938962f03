"""How long enhancing a picture takes on one core, and how much memory, beside the published path in the same run.

    OMP_NUM_THREADS=1 python benchmarks/enhancement_speed.py

'published' is STAR's released inference stated anew: picture as floats, average to 256 x 256, STAR-DCE-Ori with its
attention matrix written out, 24 maps as large as the picture, eight steps. 'ours' begins and ends with bytes. Every
measurement is a process of its own; milliseconds are CPU time of the fastest repetition, memory is what the process
grew by at most. Frames go one by one through `Predictor.predict_iter`, as a video would.
"""

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as F

from cynosure.core.records import Shapes
from cynosure_plugins.bases.star import Star, StarV2
from cynosure_tasks.curves import apply_curves, apply_curves_tiled
from cynosure_tasks.tiles import reduce_area

SIDE = 256
SIZES = {"1080p": (1080, 1920), "4K": (2160, 3840)}
FRAMES, FRAME = 48, (720, 1280)
SHAPES = Shapes((SIDE, SIDE), {"enhancement": 24})


def best(work: Callable[[], Any], repeats: int) -> float:
    """CPU milliseconds of the fastest of a few repetitions: other programs only ever slow one down."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times) * 1e3


def base_of(name: str) -> Any:
    """A base with random weights that bend curves."""
    torch.manual_seed(0)
    base = (StarV2(StarV2.Config(), SHAPES) if name == "star_v2" else Star(Star.Config(), SHAPES)).eval()
    for parameter in base.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return base


def curves_of(base: Any, picture: torch.Tensor) -> torch.Tensor:
    return base({"image": 2 * picture - 1}, None, "enhancement")


def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(2, 3) * scale, dim=-1) @ v


def published(base: Any, pixels: np.ndarray) -> np.ndarray:
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with patch("torch.nn.functional.scaled_dot_product_attention", written_out):
        curves = curves_of(base, F.adaptive_avg_pool2d(picture, SIDE))
    curves = F.interpolate(curves, size=picture.shape[2:], mode="bilinear", align_corners=False)
    return apply_curves(picture, curves).clamp(0, 1)[0].permute(1, 2, 0).numpy()


def ours(base: Any, pixels: np.ndarray) -> np.ndarray:
    reduced = torch.from_numpy(reduce_area(pixels, (SIDE, SIDE))).permute(2, 0, 1)[None] / 255
    return apply_curves_tiled(pixels, curves_of(base, reduced)[0])


@torch.inference_mode()
def network(name: str, repeats: int) -> float:
    """Milliseconds of 256 x 256 pixels to curves."""
    torch.set_num_threads(1)
    base, picture = base_of(name), torch.rand(1, 3, SIDE, SIDE)
    if name != "published":
        return best(lambda: curves_of(base, picture), repeats)
    with patch("torch.nn.functional.scaled_dot_product_attention", written_out):
        return best(lambda: curves_of(base, picture), repeats)


@torch.inference_mode()
def whole(name: str, size: tuple[int, int], repeats: int) -> tuple[float, float]:
    """Milliseconds and megabytes of a picture."""
    torch.set_num_threads(1)
    base, path = base_of(name), published if name == "published" else ours
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path(base, pixels[:SIDE, :SIDE])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = best(lambda: path(base, pixels), repeats)
    return took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@torch.inference_mode()
def difference(size: tuple[int, int]) -> float:
    """Of the tiled path from the published one with the same curves, at most, in units of [0, 1]."""
    base = base_of("star")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    reduced = torch.from_numpy(reduce_area(pixels, (SIDE, SIDE))).permute(2, 0, 1)[None] / 255
    tiled = apply_curves_tiled(pixels.astype(np.float32) / 255, curves_of(base, reduced)[0])
    return float(np.abs(tiled - published(base, pixels)).max())


def stream(name: str) -> tuple[float, float, float]:
    """CPU milliseconds of a frame in a stream: median, slowest of the first half and of the second."""
    from cynosure.build import build_model
    from cynosure.config.recipe import load_recipe
    from cynosure.host import load_host
    from cynosure.run.predictor import Predictor

    torch.set_num_threads(1)
    host = load_host()
    recipe = load_recipe("enhancement/tiny", [f"image_size={SIDE}", f"model.base={{name: {name}}}"], host)
    predictor = Predictor(build_model(recipe, host).eval(), recipe, host)
    rng = np.random.default_rng(0)
    frames = (rng.integers(0, 256, (*FRAME, 3), dtype=np.uint8) for _ in range(FRAMES + 4))
    answers, times = predictor.predict_iter(frames, batch_size=1), []
    while True:
        start = time.process_time()
        if next(answers, None) is None:
            break
        times.append(1e3 * (time.process_time() - start))
    times = times[4:]  # the first ones load what is imported late
    return float(np.median(times)), max(times[: FRAMES // 2]), max(times[FRAMES // 2 :])


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    print(f"{'':10} {'network':>10} " + " ".join(f"{name:>10} {'memory':>8}" for name in SIZES))
    for name in ("published", "star", "star_v2"):
        cells = [f"{alone(network, name, 3 * repeats):7.1f} ms"]
        for size in SIZES.values():
            took, memory = alone(whole, name, size, repeats)
            cells.append(f"{took:7.0f} ms {memory:5.0f} MB")
        print(f"{name:10} " + " ".join(cells), flush=True)
    for name in ("star", "star_v2"):
        median, *slowest = alone(stream, name)
        halves = " and ".join(f"{each:.0f}" for each in slowest)
        print(f"{name}: {1e3 / median:.1f} frames of 720p a second, the slowest of either half {halves} ms")
    print(f"largest difference of the tiled path at 1080p: {difference(SIZES['1080p']):.1e} of [0, 1]")


if __name__ == "__main__":
    main()
