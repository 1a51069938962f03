"""Styles without training: which there are, how they are written, and that a model without codes is the plain one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import make_predictor, open_session

from cynosure.build import Session, build_model
from cynosure.config.recipe import load_recipe
from cynosure.core.guided import GuidedModel
from cynosure.core.records import Codes, CodeSpec, Segment
from cynosure.data.loading import collate
from cynosure.errors import CynosureError
from cynosure.host import Host, load_host
from cynosure.run.predictor import Predictor
from cynosure.run.styles import chosen_codes, name_of, parse_styles, style_codes, styles_in_use

QUANTIZER = {"name": "vq", "vocab_size": 8, "dim": 4}
ORACLE = {"name": "vit_oracle", "patch": 8, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32, "quantizer": QUANTIZER}


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def predictor(session: Session) -> Predictor:
    return make_predictor(session)


def model_of(host: Host, tokenizer: dict[str, Any] | None, base: str = "star_v2") -> GuidedModel:
    """An untrained model of enhancement with weights that change pictures."""
    options = {"model.tokenizer": tokenizer, "model.prior": None, "model.base": {"name": base}, "image_size": 32}
    recipe = load_recipe("enhancement/tiny", [], host).with_values(options)
    torch.manual_seed(0)
    model = build_model(recipe, host)
    with torch.no_grad():
        for parameter in model.base.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.set_stage(None)
    return model


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)


def batch_of(model: GuidedModel) -> Any:
    task = model.tasks["enhancement"]
    rows = [{"degraded": photo(seed), "image": photo(seed + 9)} for seed in range(2)]
    return collate("enhancement", [task.prepare(row, np.random.default_rng(0), False) for row in rows])


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 2)], ids=str)
@pytest.mark.parametrize("base", ["star", "star_v2"])
def test_a_few_codes_for_the_whole_picture(host: Host, grid: tuple[int, int], base: str) -> None:
    """The oracle writes them about picture and answer, and each of them changes all of the picture."""
    model, length = model_of(host, ORACLE | {"code_grid": list(grid)}, base), grid[0] * grid[1]
    batch = batch_of(model)
    codes = model.encode(batch)
    assert tuple(codes.ids.shape) == (2, length, 1) and codes.spec.grid == grid
    before = model.outputs(batch, codes)
    for position in range(length):
        ids = codes.ids.clone()
        ids[:, position] = (ids[:, position] + 3) % 8
        changed = (model.outputs(batch, Codes(ids, codes.spec)) - before).abs().amax(dim=1)
        assert float((changed > 1e-6).float().mean()) > 0.99, f"code {position} changes a part of the picture only"


@pytest.mark.parametrize("base", ["star", "star_v2"])
def test_no_codes_is_the_base_without_a_tokenizer(host: Host, base: str) -> None:
    guided, plain = model_of(host, ORACLE | {"code_grid": [1, 2]}, base), model_of(host, None, base)
    weights = {k: v for k, v in guided.base.state_dict().items() if not k.startswith("code_stem")}
    assert len(weights) < len(guided.base.state_dict()), "the base has no weights for codes"
    plain.base.load_state_dict(weights)
    batch = batch_of(guided)
    assert torch.equal(guided.outputs(batch, None), plain.outputs(batch, None))


def test_a_style_is_written_position_by_position() -> None:
    flat, deep = CodeSpec((Segment("a", 2, 1, 8),)), CodeSpec((Segment("a", 2, 2, 8, (8, 3)),))
    assert style_codes((3, 0), flat).tolist() == [[3], [0]]
    assert style_codes((3, 2, 7, 1), deep).tolist() == [[3, 2], [7, 1]]
    assert name_of(style_codes((3, 2, 7, 1), deep)) == "3-2-7-1"
    for wrong in ((3, 3, 7, 1), (3, 2), 3):
        with pytest.raises(CynosureError, match="are 4 numbers, 0 to 7 or 0 to 2, written 0,0,0,0"):
            style_codes(wrong, deep)


def test_styles_of_several_numbers_are_chosen_as_codes(predictor: Predictor) -> None:
    chosen = predictor.predict(photo(), "depth", style=(3, 0, 1, 2))
    given = predictor.predict(photo(), "depth", codes=np.array([3, 0, 1, 2]))
    assert chosen.codes[:, 0].tolist() == [3, 0, 1, 2]
    assert np.array_equal(chosen.values["depth"], given.values["depth"])
    assert parse_styles(["3,0,1,2", "0,0,0,7"], predictor.model)[:, :, 0].tolist() == [[3, 0, 1, 2], [0, 0, 0, 7]]
    for text in ("3,0", "8,0,0,0", "3,,1", "warm", "-1"):
        with pytest.raises(CynosureError, match=f"no style {text}: this model's are 4 numbers, 0 to 7"):
            parse_styles([text], predictor.model)
    with pytest.raises(CynosureError, match="more than 64 styles: name those you want"):
        predictor.predict(photo(), "depth", style="all")


def test_codes_that_training_did_not_use_are_left_out(host: Host) -> None:
    model = model_of(host, ORACLE | {"code_grid": [1, 1]})
    assert len(styles_in_use(model)) == 8, "untrained, all codes are as good"
    counts = torch.tensor([5.0, 0.0, 90.0, 0.001, 2.0, 0.0, 0.0, 3.0])
    model.tokenizer.quantizer.counts.copy_(counts)  # type: ignore[union-attr, operator]
    assert styles_in_use(model).ravel().tolist() == [0, 2, 4, 7]
    assert np.array_equal(chosen_codes(model, "prior", "all"), [[[0]], [[2]], [[4]], [[7]]])
    lattice = model_of(host, ORACLE | {"code_grid": [1, 1], "quantizer": {"name": "fsq", "levels": [3, 2]}})
    assert styles_in_use(lattice).ravel().tolist() == list(range(6)), "what is not counted is shown whole"


def test_models_without_codes_and_tasks_without_strength_say_so(host: Host, predictor: Predictor) -> None:
    with pytest.raises(CynosureError, match="no tokenizer, hence no codes"):
        chosen_codes(model_of(host, None), "prior", 3)
    with pytest.raises(CynosureError, match="task depth knows no strength"):
        predictor.predict(photo(), "depth", strength=0.5)


def test_strength_makes_a_task_of_its_own(host: Host) -> None:
    task = model_of(host, None).tasks["enhancement"]
    half = task.at_strength(0.5)
    assert (half.config.strength, task.config.strength) == (0.5, 1.0)  # type: ignore[attr-defined]
    assert half.name == task.name and half.fields == task.fields
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(CynosureError, match="strength should be"):
            task.at_strength(wrong)


def test_plugins_see_the_strength_of_a_request(tmp_path: Path, host: Host) -> None:
    """A request carries the task as it was asked for, so whoever answers it needs to know nothing of strengths."""
    recipe = load_recipe("enhancement/tiny", [], host)
    model = Predictor(model_of(host, None), recipe, host)
    found = []

    class Watching:
        def predict(self, _: Predictor, request: Any) -> None:
            found.append(request.task.config.strength)

    model.host = Watching()  # type: ignore[assignment]
    assert np.array_equal(model.predict(photo(), strength=0.0).values["rgb"], photo())
    assert found == [0.0]
