"""Fréchet and kernel distance of answers from true pictures, as sets, by the features of a network of your choice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, Self

import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig
from cynosure.core.metrics import Metric, gathered
from cynosure.core.records import Prediction
from cynosure.errors import CynosureError, DataError
from cynosure_plugins.metrics.distances import FeatureSums, Gaussian, frechet_distance, mean_kernel_distance
from cynosure_plugins.metrics.feature_networks import FORMS, load_network
from cynosure_plugins.metrics.feature_reference import Reference, load_reference

log = logging.getLogger("cynosure.run")


class FeatureDistance(Metric):
    """Of predictions with the value `value`, uint8 [H, W, 3] of one size.

    fid and kid only with FID's own Inception network; with any other fd_NETWORK and kd_NETWORK, which must not be
    compared with published FID. kid is the mean of unbiased estimates over random subsets, kid_std their deviation;
    both are left out where the reference is statistics without features. NaN for fewer than two pictures.
    """

    class Config(PartConfig):
        network: str = Field("", description=f"a local file: {FORMS}")
        model: str | None = Field(None, description="the timm model that the file has the weights of")
        trust_code: bool = Field(False, description="let a TorchScript file run its code")
        reference: str | None = Field(
            None, description="a folder of pictures, or .npz statistics; null: the truths of the evaluated rows"
        )
        size: int | None = Field(None, ge=1, description="pixels that reference pictures are cropped and resized to")
        value: str = Field("rgb", description="which value of the answers is compared")
        subsets: int = Field(100, ge=0, description="pairs of subsets for the kernel distance; 0 leaves it out")
        subset_size: int = Field(1000, ge=2, description="pictures in a subset, at most")
        seed: int = 0

    TESTING: ClassVar = {"needs": "the file of a network"}

    def __init__(self, config: Config) -> None:
        if not config.network:
            raise CynosureError(f"by which features are pictures compared? Set `network` to a local file: {FORMS}")
        self.config, self.compares = config, (config.value,)
        self.network = load_network(config.network, config.model, config.trust_code)
        self.reset()

    def reset(self) -> None:
        keep = self.config.subsets > 0
        self._answers, self._truths = FeatureSums(keep), FeatureSums(keep)

    def to(self, device: torch.device | str) -> Self:
        """Move the network; sums and features stay in main memory."""
        self.network.to(device)
        return self

    def update(self, predictions: Sequence[Prediction], truths: Sequence[Prediction]) -> None:
        found, true = ([each.values[self.config.value] for each in some] for some in (predictions, truths))
        if len(found) != len(true):
            raise ValueError(f"{len(found)} predictions came with {len(true)} truths")
        self._answers.add(self.network.features(found))
        if self.config.reference is None:
            self._truths.add(self.network.features_of_truths(true))

    def compute(self) -> dict[str, torch.Tensor]:
        config, network = self.config, self.network
        answers, truths = FeatureSums.merged(gathered(self._answers)), FeatureSums.merged(gathered(self._truths))
        frechet, kernel = ("fid", "kid") if network.is_fids else (f"fd_{network.name}", f"kd_{network.name}")
        names = [frechet, *((kernel, f"{kernel}_std") if config.subsets else ())]
        if not answers.count:
            return {name: torch.tensor(torch.nan) for name in names}
        if config.reference is None:
            reference = Reference(truths.gaussian(), truths.features if config.subsets else None)
        else:
            reference = load_reference(config.reference, network, config.size)
        found = answers.gaussian()
        _require_same_length(found, reference.gaussian, config.reference)
        _warn_of_few(found, frechet)
        values = [frechet_distance(found, reference.gaussian)]
        if config.subsets and reference.features is not None:
            pair = answers.features, reference.features
            values += mean_kernel_distance(*pair, config.subsets, config.subset_size, config.seed)
        return {name: torch.tensor(value) for name, value in zip(names, values, strict=False)}


def _require_same_length(found: Gaussian, reference: Gaussian, source: str | None) -> None:
    if found.mean.shape != reference.mean.shape:
        theirs, ours = len(reference.mean), len(found.mean)
        raise DataError(
            f"the reference '{source}' is of {theirs} features, but the network has {ours}; use one network"
        )


def _warn_of_few(found: Gaussian, name: str) -> None:
    count, dim = found.count or 0, len(found.mean)
    if count <= dim:
        _warn(f"{name} of {count} pictures is far too large: the covariance of {dim} features needs more than {dim}")


@cache  # every column of a report would say it again
def _warn(text: str) -> None:
    log.warning(text)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("feature_distance", FeatureDistance)
