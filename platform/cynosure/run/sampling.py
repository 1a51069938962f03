"""How the prior is sampled: what somebody asks for, else what a protocol prescribes, else what the recipe says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from cynosure.core.records import SampleSettings
from cynosure.errors import CynosureError

if TYPE_CHECKING:
    from cynosure.config.recipe import Recipe

SEVERAL_TEMPERATURE = 0.8
"""Temperature of several samples where nobody gave one: at 0 all of them would be the same."""


class SamplingOptions(TypedDict, total=False):
    """What may be asked for, see `SampleSettings`; None is not asked for."""

    temperature: float | None
    top_k: int | tuple[int, ...] | list[int] | None
    top_p: float | tuple[float, ...] | list[float] | None
    guidance: float | None
    steps: int | None


def sample_settings(
    recipe: Recipe,
    given: SampleSettings | Mapping[str, Any] | None = None,
    prescribed: Mapping[str, Any] | None = None,
    samples: int = 1,
) -> SampleSettings:
    """Single values as given, else as prescribed, else as in the recipe's `eval.sampling`.

    Several samples of a recipe with temperature 0 are drawn at 0.8. Raises CynosureError for a value that cannot be.
    """
    if isinstance(given, SampleSettings):
        return given
    options = recipe.eval.sampling.model_dump()
    if samples > 1 and options["temperature"] == 0:
        options["temperature"] = SEVERAL_TEMPERATURE
    options |= prescribed or {}
    options |= {name: value for name, value in (given or {}).items() if value is not None}
    options |= {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
    try:
        return SampleSettings(**options)
    except ValueError as error:
        raise CynosureError(str(error)) from None
