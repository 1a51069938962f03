"""What a check is, the table of all checks, and how they are run on one component."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from cynosure.components import KINDS, PARTS_OF
from cynosure.errors import CynosureError, unknown

if TYPE_CHECKING:
    from cynosure.host import Host


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check; `message` says what is wrong, why a check was skipped, or nothing."""

    check: str
    ok: bool
    message: str = ""


@dataclass(frozen=True)
class Subject:
    """The component under test; every `build` gives a new one, with the same weights for the same `seed`."""

    host: Host
    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def problem(self) -> str:
        """What keeps the options from being valid, or ''; tasks and metrics get theirs completed first."""
        if self.kind in ("task", "metric"):
            return ""
        try:
            self.host.components.config(self.kind, {**self.options, "name": self.name})
        except CynosureError as error:
            return str(error).replace("\n", "; ")
        return ""

    @property
    def cls(self) -> Any:
        return self.host.components.get(self.kind, self.name)

    def build(self, *args: Any, seed: int = 0) -> Any:
        """The component, built as its contract says: `Class(config, *args)`."""
        torch.manual_seed(seed)
        apart = PARTS_OF.get(self.kind, {})
        own = {key: value for key, value in self.options.items() if key not in apart}
        return self.host.components.build(self.kind, {**own, "name": self.name}, *args)

    def part(self, kind: str, *args: Any) -> Any:
        """The part of this kind that the options describe, or None."""
        options = self.options.get(kind)
        return None if options is None else self.host.components.build(kind, options, *args)


Check = Callable[[Subject], None]
CHECKS: dict[str, dict[str, Check]] = {kind: {} for kind in KINDS}
"""Kind -> name of the check -> the check, which raises AssertionError with a sentence when the component fails it."""


NEEDS: dict[str, Check] = {}
"""Kind -> what must hold before its checks can tell anything; where it does not, it is the only one that fails."""


def needed(kind: str) -> Callable[[Check], Check]:
    """Makes a function what its kind needs."""

    def add(function: Check) -> Check:
        NEEDS[kind] = function
        return function

    return add


def check(kind: str) -> Callable[[Check], Check]:
    """Adds a function to `CHECKS` under its own name."""

    def add(function: Check) -> Check:
        CHECKS[kind][function.__name__] = function
        return function

    return add


def check_component(
    host: Host, kind: str, name: str, options: Mapping[str, Any] | None = None, skip: Mapping[str, str] | None = None
) -> list[CheckResult]:
    """Run every check of its kind on a registered component.

    Without `options` those of the component's TESTING count, else small values of options by the usual names; a
    component that needs more than these, or what its TESTING says under "needs", is not checked. `skip` maps checks
    that do not apply to the reason why.

    Raises CynosureError when there is no such component, or no such check to skip.
    """
    testing: Mapping[str, Any] = getattr(host.components.get(kind, name), "TESTING", {})
    given = testing.get("options") if options is None else options
    subject = Subject(host, kind, name, small_options(host, kind, name) if given is None else given)
    skip = {**testing.get("skip", {}), **(skip or {})}
    for each in skip:
        if each not in CHECKS[kind]:
            raise CynosureError(unknown(f"check of a {kind}", each, CHECKS[kind]))
    if given is None and "needs" in testing:
        return [CheckResult("options", True, f"not checked, it needs {testing['needs']}")]
    if given is None and (problem := subject.problem()):
        return [CheckResult("options", True, f"not checked, give it TESTING = {{'options': ...}}: {problem}")]
    if kind in NEEDS and not (found := _run(NEEDS[kind].__name__, NEEDS[kind], subject)).ok:
        return [found]
    return [
        CheckResult(each, True, f"skipped: {skip[each]}") if each in skip else _run(each, function, subject)
        for each, function in CHECKS[kind].items()
    ]


SMALL = {
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "mlp_dim": 32,
    "patch": 8,
    "vocab_size": 16,
    "size": 32,
    "train": 8,
    "validation": 4,
    "test": 4,
}


def small_options(host: Host, kind: str, name: str) -> dict[str, Any]:
    """Those of its TESTING, else small values of options by the usual names; a tokenizer gets the first quantizer."""
    cls: Any = host.components.get(kind, name)
    if own := getattr(cls, "TESTING", {}).get("options"):
        return dict(own)
    fields = cls.Config.model_fields
    options: dict[str, Any] = {key: value for key, value in SMALL.items() if key in fields}
    quantizers = host.components.names("quantizer")
    if "quantizer" in PARTS_OF.get(kind, {}) and quantizers:
        options["quantizer"] = {"name": quantizers[0], **small_options(host, "quantizer", quantizers[0])}
    return options


def _run(name: str, function: Check, subject: Subject) -> CheckResult:
    with torch.random.fork_rng(), torch.enable_grad():
        try:
            function(subject)
        except AssertionError as error:
            return CheckResult(name, False, str(error))
        except Exception as error:
            return CheckResult(name, False, f"raised {type(error).__name__}: {error}")
    return CheckResult(name, True)


for _module in (*CHECKS, "sampling"):
    import_module(f"cynosure.testing.{_module}")
