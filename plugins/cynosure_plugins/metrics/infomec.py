"""InfoMEC: how modular, explicit and compact a code is, measured by what it tells of the factors behind the data.

Hsu et al. 2023, "Disentanglement via latent quantization". Shapes: N samples, S sources, L latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig
from cynosure.core.metrics import Metric, gathered
from cynosure.core.records import Prediction
from cynosure.errors import CynosureError, unknown
from cynosure_plugins.metrics.logistic import null_loss, regression_loss
from cynosure_plugins.metrics.mutual_information import (
    continuous_information,
    discrete_information,
    entropy,
    jittered,
)

Rule = Literal["qlae", "tripod"]


@dataclass(frozen=True)
class InfoMEC:
    """The three numbers, 1 for a perfect code and 0 for chance, and what they were made of.

    `active` bool [L]: latents that the rule counts; `nmi` float64 [S, L]: mutual information over the source's entropy.
    """

    modularity: float
    explicitness: float
    compactness: float
    active: np.ndarray
    nmi: np.ndarray


def infomec(
    sources: np.ndarray, latents: np.ndarray, discrete: bool | None = None, rule: Rule = "qlae", seed: int = 0
) -> InfoMEC:
    """InfoMEC of latents [N, L] for the sources int [N, S] that the samples were made from.

    Discrete latents are the ids of a code or its values; None takes integers for discrete and floats for real. Values
    and ids differ only where `rule` reads a distance, see `active_latents`. The mutual information of real latents is
    an estimate by nearest neighbours, whose noise `seed` fixes.

    Every latent takes part in explicitness, only active ones in the others. NaN, never a number in its place, is:
    modularity without an active latent, with one source, or when an active latent tells nothing of any source;
    compactness with fewer than two active latents or when none tells anything of some source; explicitness and the
    source's row of `nmi`, and so all three, when a source never changes. A perfect code gets less than 1 in modularity
    from few samples, since mutual information is biased upwards.

    Raises CynosureError for shapes that do not fit, sources that are not integers, and latents that are not finite.
    """
    sources, latents = np.asarray(sources), np.asarray(latents)
    _check(sources, latents)
    if discrete is None:
        discrete = bool(np.issubdtype(latents.dtype, np.integer))
    nmi = normalized_information(sources, latents, discrete, seed)
    active = active_latents(latents, discrete, rule)
    features = one_hot(latents) if discrete else standardized(latents)
    return InfoMEC(
        modularity=concentration(nmi[:, active], axis=0),
        explicitness=float(np.mean([explained(source, features) for source in sources.T])),
        compactness=concentration(nmi[:, active], axis=1),
        active=active,
        nmi=nmi,
    )


def normalized_information(sources: np.ndarray, latents: np.ndarray, discrete: bool, seed: int = 0) -> np.ndarray:
    """Mutual information of every source with every latent over the entropy of the source [S, L]; NaN for entropy 0."""
    entropies = np.array([entropy(source) for source in sources.T])
    information: Callable[[np.ndarray, np.ndarray], float]
    if discrete:
        information, columns = discrete_information, latents.T
    else:
        rng = np.random.default_rng(seed)
        information, columns = continuous_information, np.array([jittered(latent, rng) for latent in latents.T])
    table = np.array([[information(source, latent) for latent in columns] for source in sources.T])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(entropies[:, None] > 0, table / entropies[:, None], np.nan)


def active_latents(latents: np.ndarray, discrete: bool, rule: Rule = "qlae") -> np.ndarray:
    """Which latents [N, L] are in use, bool [L].

    `qlae` looks at the range, which must be over 0 for discrete latents and over a 20th of the largest for real ones;
    `tripod` at the range between the quartiles, over 0.1 for discrete latents (of values in [-1, 1]; ids are active as
    soon as their quartiles differ) and over a 10th of the largest for real ones.
    """
    if rule not in ("qlae", "tripod"):
        raise CynosureError(unknown("activity rule", rule, ("qlae", "tripod")))
    if rule == "qlae":
        reach, least, share = np.ptp(latents, axis=0), 0.0, 1 / 20
    else:
        low, high = np.percentile(latents, (25, 75), axis=0)
        reach, least, share = high - low, 0.1, 1 / 10
    return reach > (least if discrete else share * reach.max())


def concentration(information: np.ndarray, axis: int) -> float:
    """The largest share along an axis of a table, on average over the other: chance (equal shares) is 0, one alone 1.

    NaN where the table is empty, an axis is one long, or shares are undefined because all are 0.
    """
    size = information.shape[axis]
    if size < 2 or information.size == 0:
        return float("nan")
    with np.errstate(invalid="ignore"):
        shares = information.max(axis=axis) / information.sum(axis=axis)
    return float((shares.mean() - 1 / size) / (1 - 1 / size))


def explained(source: np.ndarray, features: np.ndarray) -> float:
    """Share of the log-loss of a source [N] that linear logistic regression on features [N, F] removes."""
    null = null_loss(source)
    return float("nan") if null == 0 else (null - regression_loss(source, features)) / null


def one_hot(latents: np.ndarray) -> np.ndarray:
    """Discrete latents [N, L] -> float64 [N, F], a column for every value that a latent takes."""
    return np.concatenate([latent[:, None] == np.unique(latent) for latent in latents.T], axis=1).astype(np.float64)


def standardized(latents: np.ndarray) -> np.ndarray:
    """Real latents [N, L] at mean 0 and variance 1, float64; those that never change at 0."""
    centred = latents.astype(np.float64) - latents.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 0, deviation, 1.0)


def gini(values: np.ndarray) -> float:
    """How unequal values [n] are, as Tripod scales it: 0 when all are equal, 1 when all but one are 0.

    NaN for fewer than two values and when all are 0.
    """
    values = np.asarray(values, dtype=np.float64)
    pairs = len(values) * (len(values) - 1)
    if pairs == 0 or values.sum() == 0:
        return float("nan")
    return float(np.abs(values[:, None] - values).sum() / pairs / (2 * values.mean()))


def _check(sources: np.ndarray, latents: np.ndarray) -> None:
    if sources.ndim != 2 or latents.ndim != 2 or len(sources) != len(latents) or not len(sources):
        raise CynosureError(
            f"InfoMEC needs sources [N, S] and latents [N, L] of the same samples, not {list(sources.shape)} and "
            f"{list(latents.shape)}."
        )
    if not np.issubdtype(sources.dtype, np.integer):
        raise CynosureError(f"InfoMEC needs integer sources, not {sources.dtype}: number the values of each factor.")
    if not np.isfinite(latents).all():
        raise CynosureError("InfoMEC needs finite latents: leave out the samples whose latents are not.")


class InfoMECMetric(Metric):
    """infom, infoe, infoc and active of the codes of predictions, for the value 'factors' int [S] of their truths.

    Every code [L, D] is a discrete latent; `active` is how many of them change. Protocol `disentanglement` feeds it.
    NaN as `infomec` says, and for fewer than two pictures.
    """

    class Config(PartConfig):
        rule: Rule = Field("qlae", description="which latents count, see `active_latents`")

    TESTING: ClassVar = {"needs": "codes and the factors behind the pictures"}
    columns = ("oracle",)
    compares = ("factors",)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        self._latents: list[np.ndarray] = []
        self._factors: list[np.ndarray] = []

    def update(self, predictions: Sequence[Prediction], truths: Sequence[Prediction]) -> None:
        for prediction, truth in zip(predictions, truths, strict=True):
            if prediction.codes is None:
                raise CynosureError("infomec measures codes: give it predictions that carry them.")
            self._latents.append(prediction.codes.ravel())
            self._factors.append(truth.values["factors"])

    def compute(self) -> dict[str, torch.Tensor]:
        everyone = gathered((self._factors, self._latents))
        factors, latents = ([row for each in everyone for row in each[part]] for part in (0, 1))
        names = ("infom", "infoe", "infoc", "active")
        if len(factors) < 2:
            return {name: torch.tensor(torch.nan) for name in names}
        found = infomec(np.stack(factors), np.stack(latents), discrete=True, rule=self.config.rule)
        values = (found.modularity, found.explicitness, found.compactness, float(found.active.sum()))
        return {name: torch.tensor(value) for name, value in zip(names, values, strict=True)}


@hookimpl
def cynosure_register(register: Any) -> None:
    register.metric("infomec", InfoMECMetric)
