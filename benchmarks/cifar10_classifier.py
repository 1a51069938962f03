"""Trains the classifier that `label_accuracy` and `feature_distance` judge CIFAR-10 samples by; about ten CPU minutes.

OMP_NUM_THREADS=1 python benchmarks/cifar10_classifier.py --data train.parquet --out classifier.safetensors

The parquet file has the columns `image` and `label`. Every tenth picture is held out, and the accuracy on those is
printed at the end; it does not choose anything.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn import functional as F

from cynosure_plugins.metrics.picture_classifier import PictureClassifier
from cynosure_plugins.optimizers.muon import Muon

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WIDTHS = (32, 64, 128)
SIZE = 32
BATCH = 250
RATE = 0.01
DECAY = 0.05
SMOOTHING = 0.1
SHIFT = 3


def read(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures uint8 [N, 3, 32, 32] and labels int64 [N]."""
    table = pq.read_table(path, columns=["image", "label"])
    pictures = (Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in table["image"].to_pylist())
    pixels = np.stack([np.asarray(picture) for picture in pictures]).transpose(0, 3, 1, 2)
    return torch.from_numpy(pixels.copy()), torch.from_numpy(table["label"].to_numpy().copy())


def augmented(pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Every picture [B, 3, H, W] moved by up to SHIFT pixels each way, mirrored at the border, half of them flipped."""
    B, _, H, W = pixels.shape
    padded = F.pad(pixels.float(), (SHIFT,) * 4, mode="reflect").to(torch.uint8)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, B, 1), generator=rng)
    columns = torch.arange(W).expand(B, W)
    columns = torch.where(torch.rand(B, 1, generator=rng) < 0.5, columns, columns.flip(1)) + right
    rows = torch.arange(H).expand(B, H) + down
    return padded[torch.arange(B)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def optimizer_of(net: PictureClassifier) -> Muon:
    inner = [p for name, p in net.named_parameters() if p.ndim == 4 and "stem" not in name]
    others = [p for p in net.parameters() if not any(p is each for each in inner)]
    groups = [
        {"params": inner, "matrices": True, "weight_decay": DECAY},
        {"params": others, "matrices": False, "weight_decay": 0.0},
    ]
    return Muon(groups, RATE, (0.9, 0.95))


@torch.no_grad()
def accuracy(net: PictureClassifier, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    net.eval()
    hits = sum(int((net(x).argmax(1) == y).sum()) for x, y in zip(pixels.split(500), labels.split(500), strict=True))
    net.train()
    return hits / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    rng = torch.Generator().manual_seed(options.seed)

    pixels, labels = read(options.data)
    held_out = torch.randperm(len(labels), generator=rng) % 10 == 0
    test, test_labels = pixels[held_out], labels[held_out]
    pixels, labels = pixels[~held_out], labels[~held_out]
    net = PictureClassifier(CLASSES, WIDTHS, SIZE, "cifar10_classifier").to(memory_format=torch.channels_last)
    optimizer = optimizer_of(net)
    steps = options.epochs * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.2, anneal_strategy="linear", cycle_momentum=False
    )
    start = time.process_time()
    for epoch in range(options.epochs):
        losses = []
        for rows in torch.randperm(len(labels), generator=rng)[: len(labels) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(net(augmented(pixels[rows], rng)), labels[rows], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        minutes = (time.process_time() - start) / 60
        measured = accuracy(net, test[:1000], test_labels[:1000])
        print(f"epoch {epoch + 1:2}  loss {np.mean(losses):.3f}  {measured:.3f} of 1000  {minutes:.1f} min", flush=True)
    net.save(options.out)
    print(f"accuracy {accuracy(net, test, test_labels):.4f} on {len(test)} held-out pictures; written to {options.out}")


if __name__ == "__main__":
    main()
