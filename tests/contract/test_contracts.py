"""Every registered component against every check of its kind, found through the registry as a user's plugins are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from options import CASES, Case

from cynosure.components import KINDS
from cynosure.host import Host, load_host
from cynosure.testing import CHECKS, check_component


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host(strict=True)


def _components() -> Iterator[tuple[str, str]]:
    components = load_host().components
    for kind in KINDS:
        if CHECKS[kind]:
            yield from ((kind, name) for name in components.names(kind))


def _cases() -> Iterator[object]:
    for kind, name in _components():
        for number, case in enumerate(CASES.get((kind, name), [])):
            yield pytest.param(kind, name, case, id=f"{kind}-{name}-{number}")


@pytest.mark.parametrize(("kind", "name", "case"), _cases())
def test_component_keeps_its_contract(host: Host, kind: str, name: str, case: Case, tmp_path: Path) -> None:
    options = case.options(tmp_path) if callable(case.options) else case.options
    broken = [r for r in check_component(host, kind, name, options, case.skip) if not r.ok]
    assert not broken, "\n".join(f"{kind} '{name}' {r.check}: {r.message}" for r in broken)


@pytest.mark.parametrize(("kind", "name"), _components())
def test_component_is_checked(host: Host, kind: str, name: str) -> None:
    cls = host.components.get(kind, name)
    covered = (kind, name) in CASES or hasattr(cls, "TESTING")
    assert covered, f"{kind} '{name}' has no case: add tiny options for it to tests/contract/options.py"
