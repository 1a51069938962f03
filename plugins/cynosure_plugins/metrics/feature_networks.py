"""Networks whose features pictures are compared by, from local files; no code inside them runs unasked.

Shapes: B pictures of H x W pixels, d features.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cynosure.compat import import_timm, repair_torchvision
from cynosure.errors import CheckpointError, CynosureError, unknown
from cynosure.train.checkpoint import read_tensors
from cynosure_plugins.metrics.picture_classifier import PictureClassifier, is_classifier, load_classifier

FID_CLASSES = 1008
"""Outputs of the Inception network that FID is defined by; ImageNet's own Inception v3 has 1000."""
BATCH = 32
FORMS = (
    "a state dict of FID's Inception, a timm model's weights (name it with `model`), a picture classifier of "
    "benchmarks/cifar10_classifier.py, or TorchScript"
)


class FeatureNetwork:
    """Pictures in, features out. `name` is 'inception' for FID's own network alone; `digest` tells files apart."""

    def __init__(self, name: str, digest: str, module: nn.Module, prepare: Callable[[torch.Tensor], Any]) -> None:
        self.name, self.digest, self._prepare = name, digest, prepare
        self._module = module.eval()
        self._device = torch.device("cpu")
        self._last: tuple[list[np.ndarray], np.ndarray] = ([], np.empty((0, 0)))

    @property
    def is_fids(self) -> bool:
        return self.name == "inception"

    def to(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._module.to(self._device)

    @torch.no_grad()
    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures uint8 [H, W, 3], of one size, -> features float32 [B, d]."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            pixels = np.stack(pictures[start : start + BATCH]).transpose(0, 3, 1, 2)
            found = self._module(self._prepare(torch.from_numpy(pixels.copy()).to(self._device)))
            if found.ndim != 2:
                raise CynosureError(f"network {self.name} gives {list(found.shape)}; features must be [B, d]")
            parts.append(found.float().cpu().numpy())
        return np.concatenate(parts)

    def features_of_truths(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """`features`, but those of the last call again for the same pictures: all columns are compared with them."""
        seen, features = self._last
        if len(seen) != len(pictures) or any(a is not b for a, b in zip(seen, pictures, strict=True)):
            features = self.features(pictures)
            self._last = (list(pictures), features)
        return features


@lru_cache(maxsize=2)
def load_network(file: str, model: str | None = None, trust_code: bool = False) -> FeatureNetwork:
    """The network in a local file, one for all that ask for it.

    With `model`, the weights of that timm model as safetensors or a state dict; without, FID's Inception v3 in the
    layout of pytorch-fid, a `PictureClassifier`, whose last layer's inputs are the features, or TorchScript, whose own
    code runs and which therefore needs `trust_code`: it is called with uint8 pictures [B, 3, H, W] and gives [B, d].
    Pickles are read as tensors only.

    Raises CheckpointError for a missing or damaged file, or one of something else; CynosureError for an unknown model.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise CheckpointError(f"there is no network file {path}; give {FORMS}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if model:
        module, prepare = _timm(model, _weights(path), path)
        return FeatureNetwork(_word(model), digest, module, prepare)
    if path.suffix != ".safetensors" and _is_torchscript(path):
        if not trust_code:
            raise CheckpointError(
                f"{path} is TorchScript, which runs code of its own; set `trust_code: true` if you may"
            )
        return FeatureNetwork(_word(path.stem), digest, *_torchscript(path))
    if is_classifier(path):
        classifier = load_classifier(file)
        return FeatureNetwork(_word(classifier.name), digest, _Penultimate(classifier), lambda pixels: pixels)
    weights = _weights(path)
    if len(weights.get("fc.weight", ())) != FID_CLASSES or "Mixed_7c.branch_pool.conv.weight" not in weights:
        raise CheckpointError(f"{path} is not FID's Inception (of {FID_CLASSES} outputs); name its timm `model`")
    return FeatureNetwork("inception", digest, fid_inception(weights, path), inception_input)


def fid_inception(weights: Mapping[str, torch.Tensor], source: Path) -> nn.Module:
    """Inception v3 as it was first published: inputs float [B, 3, 299, 299] in [-1, 1] -> pooled features [B, 2048].

    It differs from torchvision's in its pooling branches: averages leave padding out, the last one is a maximum.
    """
    repair_torchvision()
    Inception3 = import_module("torchvision.models.inception").Inception3

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = Inception3(num_classes=FID_CLASSES, aux_logits=False, init_weights=False)
    for name, block in net.named_children():
        if name.startswith("Mixed_") and hasattr(block, "branch_pool"):
            _pool_by(block, _maximum if name == "Mixed_7c" else _average)
    _fill(net, {k: v for k, v in weights.items() if not k.startswith("AuxLogits.")}, source)
    net.fc = nn.Identity()
    return net


def inception_input(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, H, W] -> float [B, 3, 299, 299] in [-1, 1], between neighbours without antialiasing."""
    scaled = F.interpolate(pixels.float() / 255, size=(299, 299), mode="bilinear", align_corners=False)
    return 2 * scaled - 1


def _average(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _pool_by(block: Any, pool: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let the pooling branch of a block see `pool` of the block's input, whatever the block itself pools by."""
    inputs: list[torch.Tensor] = []
    block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    block.branch_pool.register_forward_pre_hook(lambda _, given: (pool(inputs.pop()),))


class _Penultimate(nn.Module):
    """What a classifier's last layer reads."""

    def __init__(self, classifier: PictureClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.classifier.features(pixels)


def _timm(name: str, weights: Mapping[str, torch.Tensor], source: Path) -> tuple[nn.Module, Any]:
    timm = import_timm()
    if not timm.is_model(name):
        raise CynosureError(unknown("timm model", name, timm.list_models()).partition(" (there is")[0])
    net = timm.create_model(name, pretrained=False, num_classes=0)
    settings = net.pretrained_cfg
    heads = settings.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    _fill(net, {k: v for k, v in weights.items() if not k.startswith(tuple(f"{head}." for head in heads))}, source)
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    size = settings["input_size"][1:]

    def prepare(pixels: torch.Tensor) -> torch.Tensor:
        scaled = F.interpolate(pixels.float() / 255, size=size, mode="bilinear", antialias=True)
        return (scaled - mean.to(scaled.device)) / std.to(scaled.device)

    return net, prepare


def _torchscript(path: Path) -> tuple[nn.Module, Any]:
    scripted = torch.jit.load(path, map_location="cpu")
    arguments = [argument.name for argument in scripted.forward.schema.arguments]
    if "return_features" not in arguments:
        return scripted, lambda pixels: pixels

    class Features(nn.Module):
        """Without being asked for features such a network gives class probabilities."""

        def __init__(self) -> None:
            super().__init__()
            self.net = scripted

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.net(pixels, return_features=True)

    return Features(), lambda pixels: pixels


def _is_torchscript(path: Path) -> bool:
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _weights(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken file happens to trip over
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as tensors ({reason}); give {FORMS}") from None
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    if not found or not all(torch.is_tensor(value) for value in found.values()):
        raise CheckpointError(f"{path} is no state dict; give {FORMS}")
    return dict(found)


def _fill(net: nn.Module, weights: Mapping[str, torch.Tensor], source: Path) -> None:
    """All weights but a classifier's must fit, else the features would be partly random. Counts of batches, which some
    old files lack, are not used."""
    counts = "num_batches_tracked"
    own = {k: v for k, v in net.state_dict().items() if not k.endswith(counts)}
    given = {k: v for k, v in weights.items() if not k.endswith(counts)}
    wrong = sorted((own.keys() ^ given) | {k for k in own.keys() & given if own[k].shape != given[k].shape})
    if wrong:
        raise CheckpointError(f"{source} does not fit: {', '.join(wrong[:5])}{' and more' if len(wrong) > 5 else ''}")
    net.load_state_dict(given, strict=False)


def _word(text: str) -> str:
    """A name as part of a metric's name; it can never be FID's."""
    word = re.sub(r"\W+", "_", text).strip("_").lower()
    return f"{word}_other" if word == "inception" else word
