"""Trains the scorer of the metric `scene_match` and measures it on true renders that it never saw; minutes on one core.

OMP_NUM_THREADS=1 python benchmarks/scene_scorer.py            # trains, then measures
python benchmarks/scene_scorer.py --measure                    # measures the weights that are there

It learns what every cell of a picture shows, and from that which objects there are. Pictures are blurred, made noisy
and compressed now and then, so that it also judges pictures that a tokenizer has been through.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from cynosure.data.scenes import render_scenes
from cynosure.data.scenes.captions import SIZES, Described, parse_caption
from cynosure.data.scenes.layout import COLORS, SHAPES
from cynosure.train.checkpoint import write_tensors
from cynosure_plugins.metrics.scene_scorer import (
    KINDS,
    SIZE,
    WEIGHTS,
    SceneScorer,
    Seen,
    load_scorer,
    tells_sides,
)
from cynosure_plugins.optimizers.muon import Muon

TRAINING_SEED, CALIBRATION_SEED, HELD_OUT_SEED = 1_000_003, 2_000_003, 1_000_033
"""Scenes of these seeds are in no split of the dataset `scenes` with a seed below 300,000."""
BATCH = 64
REFUSED = 0.975
"""Share of captions with one wrong colour that the threshold of an object's area is to refuse."""
DECAY = 0.02
KIND_COUNT = int(np.prod(KINDS))
BACKGROUND_WEIGHT = 0.3
PRESENCE_WEIGHT = 0.1


def kind_of(thing: dict[str, Any]) -> int:
    place = SHAPES.index(thing["shape"]), list(COLORS).index(thing["color"]), SIZES.index(thing["size"])
    return int(np.ravel_multi_index(place, KINDS))


def cells(scenes: dict[str, Any]) -> np.ndarray:
    """What every second pixel shows, uint8 [B, 32, 32]: 0 is no object, 1 + q an object of kind q."""
    instances = scenes["panoptic"][:, ::2, ::2, 1]
    kinds = np.zeros((len(instances), 8), np.uint8)
    for row, objects in zip(kinds, scenes["objects"], strict=True):
        for thing in objects:
            row[thing["instance"]] = 1 + kind_of(thing)
    return np.take_along_axis(kinds[:, :, None], instances.reshape(len(kinds), -1, 1).astype(int), 1).reshape(
        instances.shape
    )


def present(scenes: dict[str, Any]) -> np.ndarray:
    """Which kinds there are, bool [B, Q]."""
    found = np.zeros((len(scenes["objects"]), KIND_COUNT), bool)
    for row, objects in zip(found, scenes["objects"], strict=True):
        row[[kind_of(thing) for thing in objects]] = True
    return found


def worsened(images: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Pictures uint8 [B, H, W, 3] -> [B, 3, H, W]; half as they are, others blurred, then noisy or compressed."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float()
    for i in np.flatnonzero(rng.random(len(images)) < 0.5):
        if rng.random() < 0.6:
            x[i] = blurred(x[i : i + 1], rng.uniform(0.3, 1.0))[0]
        if rng.random() < 0.4:
            x[i] += torch.from_numpy(rng.normal(0, rng.uniform(1, 10), x[i].shape).astype(np.float32))
        if rng.random() < 0.4:
            x[i] = compressed(x[i], int(rng.integers(40, 95)))
    return x.round().clamp(0, 255).to(torch.uint8)


def blurred(pictures: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of pictures float [B, C, H, W]."""
    kernel = torch.exp(-0.5 * (torch.arange(-3.0, 4.0) / sigma).square())
    kernel = (kernel / kernel.sum()).expand(pictures.shape[1], 1, 1, 7)
    padded = F.pad(pictures, (3, 3, 3, 3), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=len(kernel)), kernel.mT, groups=len(kernel))


def compressed(picture: torch.Tensor, quality: int) -> torch.Tensor:
    """A picture float [3, H, W] through JPEG."""
    buffer = io.BytesIO()
    pixels = picture.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float()


def losses(
    scorer: SceneScorer, pixels: torch.Tensor, cells: torch.Tensor, present: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the cells, and of the presence of every kind and of every shape in every colour, whatever its size."""
    logs = scorer(pixels)
    weight = torch.ones(1 + KIND_COUNT)
    weight[0] = BACKGROUND_WEIGHT
    area = logs[:, 1:].exp().sum((2, 3))
    sized, unsized = (x.unflatten(1, (-1, KINDS[-1])) for x in (area, present.float()))
    areas = torch.cat([area, sized.sum(2)], 1)
    there = torch.cat([present.float(), unsized.amax(2)], 1)
    presence = F.binary_cross_entropy_with_logits(scorer.presence_logits(areas), there, reduction="none")
    return F.nll_loss(logs, cells, weight), PRESENCE_WEIGHT * presence.sum(1).mean()


def optimizer_of(scorer: SceneScorer, rate: float) -> Muon:
    inner = {n: p for n, p in scorer.named_parameters() if p.ndim == 4 and not n.startswith(("stem", "head"))}
    others = [p for n, p in scorer.named_parameters() if n not in inner]
    groups = [
        {"params": list(inner.values()), "matrices": True, "weight_decay": DECAY},
        {"params": others, "matrices": False, "weight_decay": 0.0},
    ]
    return Muon(groups, rate, (0.9, 0.98))


def train(count: int, epochs: int, rate: float, seed: int, begin: Path | None) -> SceneScorer:
    """On `count` scenes, each seen `epochs` times; from the weights in `begin`, if they are given."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scenes = render_scenes(TRAINING_SEED, np.arange(count), SIZE)
    images, labels = scenes["image"], torch.from_numpy(cells(scenes)).long()
    there = torch.from_numpy(present(scenes))
    del scenes
    scorer = SceneScorer() if begin is None else load_scorer(begin).train().requires_grad_(True)
    scorer = scorer.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(scorer, rate)
    steps = epochs * (count // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1, anneal_strategy="linear", cycle_momentum=False
    )
    start, sums = time.process_time(), np.zeros(2)
    order = np.concatenate([rng.permutation(count)[: count // BATCH * BATCH] for _ in range(epochs)])
    for step, rows in enumerate(order.reshape(-1, BATCH), 1):
        parts = losses(scorer, worsened(images[rows], rng), labels[rows], there[rows])
        optimizer.zero_grad()
        sum(parts, torch.zeros(())).backward()
        optimizer.step()
        schedule.step()
        sums += [part.item() for part in parts]
        if step % 200 == 0:
            minutes = (time.process_time() - start) / 60
            print(
                f"step {step}/{steps}  cells {sums[0] / 200:.4f}  presence {sums[1] / 200:.4f}  {minutes:.1f} min",
                flush=True,
            )
            sums[:] = 0
    return scorer.eval()


def told(scenes: dict[str, Any]) -> tuple[list[Described], list[set[tuple[str, str]]], list[Described]]:
    """Of each scene its caption, the shapes and colours that it shows, and its caption with one wrong colour."""
    captions = [parse_caption(text) for text in scenes["caption"]]
    shown = [{(thing["shape"], thing["color"]) for thing in objects} for objects in scenes["objects"]]
    rng = np.random.default_rng(0)
    wrong = [with_wrong_colour(caption, pairs, rng) for caption, pairs in zip(captions, shown, strict=True)]
    return captions, shown, wrong


def calibrated(scorer: SceneScorer, count: int) -> SceneScorer:
    """With the smallest area at which wrong colours are still refused as often as `REFUSED` says: what is missed most
    is small or half hidden, and the loss weighs it as it weighs what is seen and not there."""
    scenes = render_scenes(CALIBRATION_SEED, np.arange(count), SIZE)
    seen = scorer.look(list(scenes["image"]))
    _, shown, wrong = told(scenes)
    areas = seen[0].least * np.geomspace(0.05, 1, 31)
    refused = [share(refusals([replace(each, least=area) for each in seen], wrong, shown)) for area in areas]
    least = next((area for area, rate in zip(areas, refused, strict=True) if rate >= REFUSED), areas[-1])
    with torch.no_grad():
        scorer.presence[1] = -scorer.presence[0] * float(np.log(least))
    return scorer


def pair(name: Any) -> tuple[str, str]:
    return name.shape, name.color


def measure(
    scorer: SceneScorer, count: int, worsen: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, float]:
    """Shares of held-out scenes: whose caption is found, and of captions that are false of a scene, refused."""
    scenes = render_scenes(HELD_OUT_SEED, np.arange(count), SIZE)
    images = scenes["image"] if worsen is None else worsen(scenes["image"])
    seen = scorer.look(list(images))
    captions, shown, recoloured = told(scenes)
    of_another = captions[1:] + captions[:1]
    return {
        "objects and colours found": share([s.shows_all(c) for s, c in zip(seen, captions, strict=True) if c.objects]),
        "and sizes, where said": share(
            [s.shows_all(c, sized=True) for s, c in zip(seen, captions, strict=True) if any(o.size for o in c.objects)]
        ),
        "left and right as said": share([s.agrees(c) for s, c in zip(seen, captions, strict=True) if tells_sides(c)]),
        "captions of others refused": share(refusals(seen, of_another, shown)),
        "one colour changed refused": share(refusals(seen, recoloured, shown)),
    }


def with_wrong_colour(caption: Described, pairs: set[tuple[str, str]], rng: np.random.Generator) -> Described:
    """The caption with the first object in a colour in which the scene has none of its shape."""
    if not caption.objects:
        return caption
    first, *rest = caption.objects
    wrong = [color for color in COLORS if (first.shape, color) not in pairs]
    return replace(caption, objects=(replace(first, color=str(rng.choice(wrong))), *rest))


def refusals(seen: list[Seen], captions: list[Described], shown: list[set[tuple[str, str]]]) -> list[bool]:
    """Whether captions are refused, of those that are false of their scene."""
    rows = zip(seen, captions, shown, strict=True)
    return [not s.shows_all(c) for s, c, pairs in rows if not {pair(name) for name in c.objects} <= pairs]


def share(hits: list[bool]) -> float:
    return float(np.mean(hits))


def blur_all(images: np.ndarray) -> np.ndarray:
    x = blurred(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float(), 0.7)
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="train nothing")
    parser.add_argument("--scenes", type=int, default=32000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.006)
    parser.add_argument("--held-out", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights, the order and the worsening")
    parser.add_argument("--begin", type=Path, help="go on from the weights in this file")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.measure:
        scorer = train(options.scenes, options.epochs, options.rate, options.seed, options.begin)
        trained = calibrated(scorer, options.held_out // 2).state_dict()
        write_tensors(options.out, {n: t.half() if t.is_floating_point() else t for n, t in trained.items()})
    scorer = load_scorer(options.out)
    for what, worsen in {"true renders": None, "true renders, blurred (sigma 0.7 pixels)": blur_all}.items():
        print(f"{what}, {options.held_out} held out")
        for name, value in measure(scorer, options.held_out, worsen).items():
            print(f"  {name:28} {value:.4f}")


if __name__ == "__main__":
    main()
