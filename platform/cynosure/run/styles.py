"""Styles: the code of an answer as a person chooses it, whole, where codes are few enough for that.

Shapes: S styles, L code length, D depth, K vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice, product
from typing import Literal, TypeGuard

import numpy as np

from cynosure.core.guided import CodeSource, GuidedModel
from cynosure.core.records import CodeSpec
from cynosure.errors import CynosureError
from cynosure.run.steering import spec_of

All = Literal["all"]
Style = int | Sequence[int] | All
"""One number, or L D of them position by position; all that are in use."""
MOST = 64
"""More styles than these are not shown at once."""
SEVERAL = 3
"""Dimensions of codes [S, L, D], which have an answer each."""


def chosen_codes(model: GuidedModel, codes: CodeSource | np.ndarray, style: Style | None) -> CodeSource | np.ndarray:
    """`codes`, or those of a style: int64 [L, D], or [S, L, D] of all. Raises CynosureError for one that is none."""
    if style is None:
        return codes
    if not isinstance(codes, str) or codes != "prior":
        raise CynosureError("a style is a code already: give codes or a style, not both")
    return styles_in_use(model) if _is_all(style) else style_codes(style, spec_of(model))


def _is_all(style: object) -> TypeGuard[All]:
    return isinstance(style, str) and style == "all"


def style_codes(style: int | Sequence[int] | str, spec: CodeSpec, also: str = "") -> np.ndarray:
    """The codes int64 [L, D] that a style is: a number, L D of them, or a text of them, '3,0,1,2'.

    Raises CynosureError for one that is none, which says what there is, and `also` what else may be given.
    """
    if isinstance(style, str) and re.fullmatch(r"\d+(,\d+)*", style):
        style = [int(number) for number in style.split(",")]
    numbers, sizes = np.atleast_1d(np.asarray(style)), spec.limits().numpy()
    if numbers.dtype.kind not in "iu" or numbers.shape != (sizes.size,) or not _inside(numbers, sizes.ravel()):
        raise CynosureError(f"there is no style {name_of(numbers, ',')}: {_what_there_is(sizes.ravel())}{also}")
    return numbers.astype(np.int64).reshape(sizes.shape)


def _inside(numbers: np.ndarray, sizes: np.ndarray) -> bool:
    return bool(((numbers >= 0) & (numbers < sizes)).all())


def _what_there_is(sizes: np.ndarray) -> str:
    if len(sizes) == 1:
        return f"this model has 0 to {sizes[0] - 1}"
    ranges = [f"0 to {size - 1}" for size in dict.fromkeys(sizes.tolist())]
    example = ",".join(["0"] * len(sizes))
    return f"this model's are {len(sizes)} numbers, {' or '.join(ranges)}, written {example}"


def styles_in_use(model: GuidedModel) -> np.ndarray:
    """Every style, int64 [S, L, D], whose codes the training used; every one where the quantizer does not count.

    Raises CynosureError where they are too many to show.
    """
    spec = spec_of(model)
    assert model.tokenizer is not None
    used = model.tokenizer.quantizer.in_use()
    sizes = spec.limits().numpy()
    codes = [
        range(size) if used is None else [code for code in range(size) if used[code]] for size in sizes.ravel().tolist()
    ]
    found = list(islice(product(*codes), MOST + 1))
    if len(found) > MOST:
        raise CynosureError(
            f"this model has more than {MOST} styles: name those you want (--style {name_of([0] * sizes.size, ',')}), "
            "or draw some (--samples)"
        )
    return np.array(found, dtype=np.int64).reshape(-1, *sizes.shape)


def parse_styles(texts: Sequence[str], model: GuidedModel) -> np.ndarray:
    """Styles as a command has them, '3', '3,0,1,2' or 'all', as codes int64 [S, L, D]."""
    if list(texts) == ["all"]:
        return styles_in_use(model)
    spec = spec_of(model)
    return np.stack([style_codes(text, spec, ", or all") for text in texts])


def name_of(codes: np.ndarray | Sequence[int], between: str = "-") -> str:
    """Codes of any shape as the name of a style: '3', '3-0-1-2'."""
    return between.join(str(number) for number in np.asarray(codes).ravel().tolist())
