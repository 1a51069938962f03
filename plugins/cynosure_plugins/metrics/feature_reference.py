"""What pictures are compared with as a set: statistics of a folder of them, kept on disk, or of a file."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock

from cynosure.data.augment import centre_square
from cynosure.data.cache import cache_folder, writing_to
from cynosure.data.pictures import find_pictures, load_picture
from cynosure.errors import DataError
from cynosure.progress import current_progress
from cynosure_plugins.metrics.distances import FeatureSums, Gaussian
from cynosure_plugins.metrics.feature_networks import BATCH, FeatureNetwork


@dataclass(frozen=True)
class Reference:
    """The Gaussian of reference features and, where they are known, the features float32 [N, d] themselves."""

    gaussian: Gaussian
    features: np.ndarray | None = None

    @classmethod
    def of(cls, features: np.ndarray) -> Reference:
        return cls(FeatureSums(keep=False).add(features).gaussian(), features)

    def save(self, path: Path, network: FeatureNetwork) -> None:
        """An .npz with mu and sigma, as other programs name them, and what else there is."""
        values: dict[str, Any] = {"mu": self.gaussian.mean, "sigma": self.gaussian.covariance}
        values |= {"count": self.gaussian.count or 0, "network": network.digest}
        np.savez(path, **values if self.features is None else values | {"features": self.features})


def load_reference(source: str, network: FeatureNetwork, size: int | None) -> Reference:
    """Of an .npz with mu [d] and sigma [d, d], or of a folder of pictures, each cropped to a square of `size` pixels.

    Raises DataError where there is neither, or the statistics are not of this network.
    """
    path = Path(source).expanduser()
    if path.suffix == ".npz":
        return _read(path, network)
    pictures = find_pictures([path])
    state = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in pictures]
    key = hashlib.blake2b(json.dumps([network.digest, network.name, size, state]).encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "features"
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"{key}.npz"
        with FileLock(f"{kept}.lock"):  # one process of a run computes, the others wait
            if not kept.is_file():
                partial = kept.with_suffix(".partial.npz")
                Reference.of(_features(pictures, network, size)).save(partial, network)
                partial.rename(kept)
    return _read(kept, network)


def _features(pictures: Sequence[Path], network: FeatureNetwork, size: int | None) -> np.ndarray:
    parts = []
    with current_progress().bar("features of the reference", len(pictures)) as bar:
        for start in range(0, len(pictures), BATCH):
            loaded = [load_picture(path).image for path in pictures[start : start + BATCH]]
            loaded = loaded if size is None else [centre_square(image, size) for image in loaded]
            if len({image.shape for image in loaded}) > 1:
                raise DataError(
                    f"the pictures beside '{pictures[start]}' differ in size; set `size` to crop them alike"
                )
            parts.append(network.features(loaded))
            bar.advance(len(loaded))
    return np.concatenate(parts)


def _read(path: Path, network: FeatureNetwork) -> Reference:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
    except FileNotFoundError:
        raise DataError(f"the reference '{path}' does not exist; give a folder of pictures or an .npz") from None
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(f"the reference '{path}' cannot be read ({error}); give an .npz with mu and sigma") from None
    if not {"mu", "sigma"} <= found.keys():
        raise DataError(f"the reference '{path}' lacks mu and sigma; it has {', '.join(found)}")
    if "network" in found and str(found["network"]) != network.digest:
        raise DataError(f"the reference '{path}' was computed by another network; compute it again from its pictures")
    mean, covariance = found["mu"].astype(np.float64), found["sigma"].astype(np.float64)
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not np.isfinite([mean.sum(), covariance.sum()]).all():
        raise DataError(f"the reference '{path}' needs finite mu [d] and sigma [d, d]; compute it again")
    return Reference(Gaussian(mean, covariance, int(found.get("count", 0)) or None), found.get("features"))
