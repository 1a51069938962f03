"""What plugins give as the results of hooks, checked: a wrong one is an error that names the plugin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cynosure.errors import PluginError

if TYPE_CHECKING:
    import numpy as np

    from cynosure.core.records import Example


def checked(giver: Callable[[], str], result: Any, kind: Any, wanted: str) -> Any:
    """`result`; raises PluginError, naming its giver and what was wanted, where it is not of a kind.

    Who gave it is asked only then: training steps pass here.
    """
    if isinstance(result, kind):
        return result
    name = getattr(result, "__name__", "")
    found = "None" if result is None else f"the class {name}" if isinstance(result, type) else type(result).__name__
    raise PluginError(f"{giver()} returned {found}: return {wanted}")


def checked_picture(giver: Callable[[], str], result: Any) -> np.ndarray:
    """The same for a picture."""
    import numpy as np

    wanted = "a picture uint8 [H, W, 3]"
    picture: np.ndarray = checked(giver, result, np.ndarray, wanted)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise PluginError(f"{giver()} returned {picture.dtype} {list(picture.shape)}: return {wanted}")
    return picture


@dataclass(frozen=True)
class NamedTransform:
    """A function that a plugin gave for examples; its errors, and a result that is no example, name the giver."""

    function: Callable[[Example, np.random.Generator], Example]
    giver: str

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        from cynosure.core.records import Example

        try:
            changed = self.function(example, rng)
        except Exception as error:
            error.add_note(f"raised in {self.giver}")
            raise
        found: Example = checked(lambda: self.giver, changed, Example, "the example, changed or not")
        return found
