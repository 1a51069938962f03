"""InfoMEC against numbers of the published code under the scikit-learn that it was written for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cynosure_plugins.metrics.infomec import Rule, gini, infomec
from cynosure_plugins.metrics.logistic import null_loss
from cynosure_plugins.metrics.mutual_information import entropy


@pytest.mark.parametrize("rule", ["qlae", "tripod"])
@pytest.mark.parametrize("case", ["clean", "mixed", "continuous"])
def test_infomec(golden: Path, case: str, rule: Rule) -> None:
    wanted = json.loads((golden / "qlae" / "infomec.json").read_text())[f"{case}/{rule}"]
    with np.load(golden / "qlae" / "infomec.npz") as arrays:
        found = infomec(arrays["sources"], arrays[f"latents_{case}"], case != "continuous", rule)
    tolerance = 2e-3 if case == "continuous" else 1e-9
    assert found.active.tolist() == wanted["active"]
    np.testing.assert_allclose(found.nmi, wanted["nmi"], rtol=0, atol=tolerance)
    assert found.modularity == pytest.approx(wanted["infom"], abs=tolerance)
    assert found.compactness == pytest.approx(wanted["infoc"], abs=tolerance)
    assert found.explicitness == pytest.approx(wanted["infoe"], abs=3e-3)


def test_entropies(golden: Path) -> None:
    wanted = json.loads((golden / "qlae" / "infomec.json").read_text())
    with np.load(golden / "qlae" / "infomec.npz") as arrays:
        sources = arrays["sources"].T
    assert [entropy(source) for source in sources] == pytest.approx(wanted["entropies_nats"], abs=1e-12)
    assert [null_loss(source) for source in sources] == pytest.approx(wanted["null_log_loss"], abs=1e-6)


def test_gini(golden: Path) -> None:
    for values, wanted in json.loads((golden / "qlae" / "infomec.json").read_text())["gini"].items():
        assert gini(np.array(json.loads(values))) == pytest.approx(wanted, abs=1e-12), values
