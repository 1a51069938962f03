"""VGG16 as LPIPS reads pictures with it: from local files, or of random weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from cynosure.core.initial import missing_files
from cynosure.errors import CheckpointError
from cynosure.train.checkpoint import some
from cynosure.train.streaming import lazy_tensors
from cynosure_plugins.importers.torch_file import TorchFile

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Of each stage, by their number among the layers of torchvision's `vgg16().features`."""
NARROWING = 4
SLOPE = 0.2
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
SMALLEST = 16
"""Pixels of which the last stage sees one."""
NAMES = (
    (re.compile(r"(?:^|\.)(?:features|slice\d)\.(\d+)\.(weight|bias)$"), "{}.{}"),
    (re.compile(r"(?:^|\.)lin(\d)\.model\.1\.(weight)$"), "lin{}.{}"),
)
"""Names of torchvision's VGG16, of LPIPS's heads, and of both as taming-transformers saves them -> ours."""

Reader = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class VGG:
    """Five stages of convolutions (weight, bias), each but the first behind a pooling, and a head [C] for each stage.

    Plain tensors, no module: they are neither trained nor saved. `slope` is that of the rectifiers below 0.
    """

    stages: tuple[tuple[tuple[torch.Tensor, torch.Tensor], ...], ...]
    heads: tuple[torch.Tensor, ...]
    slope: float = 0.0

    def to(self, device: torch.device) -> VGG:
        stages = tuple(tuple((w.to(device), b.to(device)) for w, b in stage) for stage in self.stages)
        return VGG(stages, tuple(head.to(device) for head in self.heads), self.slope)

    def features(self, pictures: torch.Tensor) -> Iterator[torch.Tensor]:
        """Pictures [B, 3, H, W] in [-1, 1] -> what each stage makes of them, [B, C, h, w]."""
        x = scaled(pictures)
        for number, stage in enumerate(self.stages):
            if number:
                x = F.max_pool2d(x, 2)
            for weight, bias in stage:
                x = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), self.slope)
            yield x

    def distances(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Perceptual distances [B] between pictures [B, 3, H, W] in [-1, 1] (Zhang et al. 2018, equation 1)."""
        pairs = zip(self.features(a), self.features(b), self.heads, strict=True)
        return torch.stack([difference(x, y, head) for x, y, head in pairs]).sum(0)


def scaled(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures in [-1, 1] as LPIPS gives them to its network, which was trained on ImageNet's standardised colours."""
    shift, scale = (pictures.new_tensor(values).view(3, 1, 1) for values in (SHIFT, SCALE))
    return (pictures - shift) / scale


def difference(a: torch.Tensor, b: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Features [B, C, h, w] -> squared difference of their directions, weighted by the head [C], its mean [B]."""
    squared = (_directions(a.float()) - _directions(b.float())).square()
    return (squared * head.view(-1, 1, 1)).sum(1).mean((1, 2))


def _directions(x: torch.Tensor) -> torch.Tensor:
    """Each position's features over their norm. Where all are zero the gradient is, too: it would have no bound."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.where(norm > 0, x / (norm + 1e-10), 0)


def random_vgg() -> VGG:
    """VGG16 a quarter as wide, with weights drawn once and for all (He et al. 2015), leaky rectifiers and heads that
    weigh all channels alike."""
    generator = torch.Generator().manual_seed(0)
    stages, inputs = [], 3
    for width, convolutions in zip(WIDTHS, CONVOLUTIONS, strict=True):
        outputs, stage = width // NARROWING, []
        for _ in convolutions:
            spread = (2 / (9 * inputs * (1 + SLOPE**2))) ** 0.5
            weight = spread * torch.randn(outputs, inputs, 3, 3, generator=generator, device="cpu")
            stage.append((weight, torch.zeros(outputs, device="cpu")))
            inputs = outputs
        stages.append(tuple(stage))
    heads = tuple(torch.ones(width // NARROWING, device="cpu") for width in WIDTHS)
    return VGG(tuple(stages), heads, SLOPE)


def find_vgg(weights: str, heads: str | None) -> VGG:
    """`load_vgg`, or a network of that shape without values where it is only to be counted."""
    missing = missing_files()
    if missing is None:
        return load_vgg(weights, heads)
    missing += [_absent(path) for path in _paths(weights, heads) if not path.is_file()]
    return _network({name: torch.empty(shape, device="cpu") for name, shape in _shapes().items()})


def load_vgg(weights: str, heads: str | None) -> VGG:
    """The network in a file of torchvision's VGG16, with LPIPS's heads from there or from the file `heads`.

    Files are safetensors, state dicts of PyTorch, or a checkpoint of taming-transformers, which has all in one; nothing
    inside them runs. Raises CheckpointError for a file that is not there or damaged, and names what none of them has.
    """
    readers = {name: reader for path in _paths(weights, heads) for name, reader in _readers(path)}
    wanted = _shapes()
    missing = [name for name in wanted if name not in readers]
    if missing:
        advice = "give LPIPS's heads for VGG (vgg.pth)" if missing[0].startswith("lin") else "give torchvision's VGG16"
        raise CheckpointError(f"{weights}{f' and {heads}' if heads else ''} lack {some(missing)}: {advice}.")
    tensors = {name: readers[name]().float() for name in wanted}
    if wrong := [f"{name} is {list(t.shape)}" for name, t in tensors.items() if tuple(t.shape) != wanted[name]]:
        raise CheckpointError(f"{weights} is not VGG16: {some(wrong)}.")
    return _network(tensors)


def _paths(*files: str | None) -> list[Path]:
    return [Path(file).expanduser() for file in files if file]


def _absent(path: Path) -> str:
    return f"there is no file {path} for criterion lpips; network: random needs none"


def _network(tensors: Mapping[str, torch.Tensor]) -> VGG:
    """Of all arrays by our name."""
    stages = tuple(
        tuple((tensors[f"{number}.weight"], tensors[f"{number}.bias"]) for number in stage) for stage in CONVOLUTIONS
    )
    return VGG(stages, tuple(tensors[f"lin{i}.weight"].flatten() for i in range(len(WIDTHS))))


def _shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every array by our name, convolutions first."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for width, stage in zip(WIDTHS, CONVOLUTIONS, strict=True):
        for number in stage:
            shapes |= {f"{number}.weight": (width, inputs, 3, 3), f"{number}.bias": (width,)}
            inputs = width
    return shapes | {f"lin{i}.weight": (1, width, 1, 1) for i, width in enumerate(WIDTHS)}


def _readers(path: Path) -> Iterator[tuple[str, Reader]]:
    """The arrays of a file that are ours, by our name, each read when it is called."""
    if not path.is_file():
        raise CheckpointError(f"{_absent(path)}.")
    for name, read in _arrays(path).items():
        for pattern, ours in NAMES:
            if found := pattern.search(name):
                yield ours.format(*found.groups()), read


def _arrays(path: Path) -> Mapping[str, Reader]:
    if path.suffix == ".safetensors":
        return {name: lazy.make for name, lazy in lazy_tensors(path).items()}
    file = TorchFile(path)
    return {name: _reader(file, name) for name in file.shapes}


def _reader(file: TorchFile, name: str) -> Reader:
    return lambda: torch.from_numpy(file[name])
