"""Options that say how codes are drawn: the same in every command, written the same way.

A command takes those it needs as parameters and hands them to `given_sampling`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cynosure.errors import CynosureError

if TYPE_CHECKING:
    from cynosure.run.sampling import SamplingOptions

Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        min=0,
        help="0 is the likeliest code; else the recipe's or protocol's, and 0.8 for several samples where that is 0",
    ),
]
TopK = Annotated[
    str | None,
    typer.Option("--top-k", metavar="K", help="draw from the k likeliest; 512,256 gives one k a depth"),
]
TopP = Annotated[
    str | None,
    typer.Option("--top-p", metavar="P", help="draw from this probability mass; 0.9,0.8 gives one share a depth"),
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", min=0, help="how much to exaggerate the condition; 1 is not at all")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="rounds of a prior that writes in rounds")]


def given_sampling(
    temperature: float | None = None,
    top_k: str | None = None,
    top_p: str | None = None,
    guidance: float | None = None,
    steps: int | None = None,
) -> SamplingOptions:
    """The options of a command as `Predictor.predict` and `sample_settings` take them; None is not given.

    Raises CynosureError for text that is no number.
    """
    return {
        "temperature": temperature,
        "top_k": by_depth(top_k, int, "--top-k takes a whole number or one for each depth, such as 512,256"),
        "top_p": by_depth(top_p, float, "--top-p takes a share or one for each depth, such as 0.9,0.8"),
        "guidance": guidance,
        "steps": steps,
    }


def by_depth(text: str | None, number: Callable[[str], Any], rule: str) -> Any:
    """'512' -> 512, '512,256' -> (512, 256)."""
    if text is None:
        return None
    try:
        values = tuple(number(part) for part in text.split(","))
    except ValueError:
        raise CynosureError(f"{rule}, not {text}") from None
    return values if len(values) > 1 else values[0]
