"""Styles: one code that the oracle writes about a retouch, chosen by hand, gives that retouch of any picture."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tiny_runs import Project
from typer.testing import CliRunner

from cynosure.build import Session
from cynosure.cli.app import create_app
from cynosure.data.files import write_png
from cynosure.errors import CynosureError
from cynosure.host import load_host
from cynosure.run.evaluate import evaluate
from cynosure.run.predictor import Predictor

LOOKS = '''
from collections.abc import Sequence

import numpy as np

from cynosure import hookimpl
from cynosure.core.contracts import Dataset, DatasetInfo, PartConfig
from cynosure.data.cache import cache_folder
from cynosure.data.scenes import SceneRows, build_scenes

GAMMAS = np.array([(0.4, 0.6, 1.0), (1.0, 0.7, 0.4), (0.45, 0.45, 0.45)])


class Rows(Sequence):
    """Every scene three times: warm, cool, bright."""

    def __init__(self, scenes):
        self.scenes = scenes

    def __len__(self):
        return len(GAMMAS) * len(self.scenes)

    def __getitem__(self, index):
        scene, look = divmod(range(len(self))[index], len(GAMMAS))
        picture = self.scenes[scene]["image"]
        return {"degraded": picture, "image": (255 * (picture / 255) ** GAMMAS[look]).round().astype(np.uint8)}


class Looks(Dataset):
    class Config(PartConfig):
        pass

    def __init__(self, config):
        pass

    @property
    def info(self):
        return DatasetInfo(name="looks", fields=("degraded", "image"))

    def rows(self, split):
        seed, count = {"train": (0, 48), "validation": (1, 8), "test": (2, 8)}[split]
        return Rows(SceneRows(build_scenes(seed, count, 32, cache_dir=cache_folder() / "scenes"), 32, ("image",)))


@hookimpl
def cynosure_register(register):
    register.dataset("looks", Looks)
'''
RECIPE = """
base: enhancement/styles
image_size: 32
data: {looks: null, scenes: {name: looks}}
tasks: {enhancement: {data: scenes, batch_size: 24, augment: flip}}
model:
  tokenizer: {dim: 32, mlp_dim: 64, quantizer: {warmup_steps: 50}}
  base: {grid: 8}
  prior: {dim: 32, mlp_dim: 64, encoder: {dim: 32, mlp_dim: 64}}
train:
  codes: {steps: 240, warmup: 20}
  prior: {steps: 10, warmup: 0}
eval: {limit: 24, batch_size: 24}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The run, its model, and rows that it has not seen; a row of each look for every scene."""
    import cynosure

    folder = tmp_path_factory.mktemp("styles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYNOSURE_CACHE", str(folder / "cache"))
        project = Project(folder)
        project.plugin("looks", LOOKS)
        project.recipe.write_text(RECIPE)
        project.train("run")
        rows = [dict(row) for row in project.session().rows("enhancement", "test")]
        model = cynosure.load(folder / "run", registry=project.registry, device="cpu")
        photo = write_png(folder / "photo.png", rows[0]["degraded"])
        yield SimpleNamespace(run=folder / "run", model=model, rows=rows, photo=photo, registry=project.registry)


@pytest.fixture
def model(trained: SimpleNamespace) -> Predictor:
    return trained.model


def test_answers_of_the_prior_are_measured(trained: SimpleNamespace, model: Predictor) -> None:
    """They are what a user gets: a table without them hides whether the prior is any good."""
    session = Session.open(model.recipe, load_host(trained.registry))
    found = evaluate(model, session, limit=8).tasks["enhancement"].metrics
    for source in ("oracle", "prior", "random", "none", "baseline"):
        assert set(found[source]) == {"psnr", "ssim", "delta_e2000", "angular_error"}, source


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(picture.astype(float) - truth).mean()))


def pixels(prediction: object) -> np.ndarray:
    return prediction.values["rgb"]  # type: ignore[attr-defined]


def test_the_code_tells_which_retouch_it_is(trained: SimpleNamespace) -> None:
    def quality(codes: str) -> float:
        answers = trained.model.predict(trained.rows, codes=codes)
        return float(np.mean([psnr(pixels(a), row["image"]) for a, row in zip(answers, trained.rows, strict=True)]))

    oracle, none = quality("oracle"), quality("none")
    assert oracle > none + 6, f"with the oracle's code {oracle:.1f} dB, without any {none:.1f} dB"


def test_a_style_is_the_same_retouch_of_every_picture(trained: SimpleNamespace) -> None:
    """The style of one scene's look, given to another scene, makes that look of it."""
    for look in range(3):
        shown, other = trained.rows[look], trained.rows[3 + look]
        style = int(trained.model.predict(shown, codes="oracle").codes[0, 0])
        answer = pixels(trained.model.predict(other["degraded"], style=style))
        found = [psnr(answer, trained.rows[3 + each]["image"]) for each in range(3)]
        assert int(np.argmax(found)) == look, f"style {style} of look {look} gives look {int(np.argmax(found))}"
        assert found[look] > 22


def test_styles_give_different_pictures_of_one(model: Predictor, trained: SimpleNamespace) -> None:
    answers = model.predict(trained.photo, style="all")
    assert [a.codes.shape for a in answers] == [(1, 1)] * len(answers) and len(answers) >= 3
    pictures = np.stack([pixels(a) for a in answers]).astype(float)
    apart = np.abs(pictures[:, None] - pictures[None]).mean(axis=(2, 3, 4))
    assert apart.max() > 20, "no two styles differ clearly"


def test_a_style_is_its_code(model: Predictor, trained: SimpleNamespace) -> None:
    for style in (0, 7):
        chosen, given = model.predict(trained.photo, style=style), model.predict(trained.photo, codes=np.array([style]))
        assert np.array_equal(pixels(chosen), pixels(given)) and chosen.codes.item() == style
    photos = [row["degraded"] for row in trained.rows[:9:3]]
    several = model.predict(photos, codes=np.array([[[4]], [[1]]]), batch_size=2)
    for photo, answers in zip(photos, several, strict=True):
        assert [a.codes.item() for a in answers] == [4, 1]
        assert np.array_equal(pixels(answers[1]), pixels(model.predict(photo, style=1)))


def test_strength_leads_from_the_picture_to_the_answer(model: Predictor, trained: SimpleNamespace) -> None:
    picture = trained.rows[0]["degraded"]
    style = int(model.predict(trained.rows[2], codes="oracle").codes[0, 0])
    steps = [pixels(model.predict(picture, style=style, strength=s)) for s in (0.0, 0.3, 0.7, 1.0)]
    assert np.array_equal(steps[0], picture)
    assert np.array_equal(steps[-1], pixels(model.predict(picture, style=style)))
    distances = [np.abs(step.astype(float) - picture).mean() for step in steps]
    assert all(a + 1 < b for a, b in pairwise(distances)), distances
    assert model.task().config.strength == 1.0, "one call has changed all later ones"  # type: ignore[attr-defined]


def test_what_is_no_style_says_what_there_is(model: Predictor, trained: SimpleNamespace) -> None:
    wrong: Any
    for wrong in (8, -1, (1, 2), "warm", 1.5):
        with pytest.raises(CynosureError, match="this model has 0 to 7"):
            model.predict(trained.photo, style=wrong)
    with pytest.raises(CynosureError, match="strength should be less than or equal to 1"):
        model.predict(trained.photo, strength=2.0)
    with pytest.raises(CynosureError, match="not both"):
        model.predict(trained.photo, style=1, codes=np.array([1]))
    with pytest.raises(CynosureError, match="leave samples out"):
        model.predict(trained.photo, style="all", samples=2)


def test_the_command_writes_every_style_and_one_sheet(trained: SimpleNamespace, tmp_path: Path) -> None:
    def predict(*options: str) -> str:
        call = ["--registry", str(trained.registry), "predict", str(trained.run), str(trained.photo)]
        done = CliRunner().invoke(create_app(), [*call, "-o", str(tmp_path), *options])
        return done.output if done.exit_code == 0 else str(done.exception)

    assert "grid.png" in predict("--style", "all", "--grid")
    answers = trained.model.predict(trained.photo, style="all")
    for answer in answers:
        file = tmp_path / f"photo.enhancement-style-{answer.codes.item()}.png"
        assert np.array_equal(np.asarray(Image.open(file)), pixels(answer))
    wide, high = Image.open(tmp_path / "grid.png").size
    assert wide > high * len(answers) / 2, "the styles are not side by side"
    predict("--style", "2", "--strength", "0")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "photo.enhancement.png")), trained.rows[0]["degraded"])
    assert "there is no style 9: this model has 0 to 7" in predict("--style", "9")
    assert "leave --codes and --samples out" in predict("--style", "1", "--samples", "2")


@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_a_style_leaves_as_a_file_of_its_own(model: Predictor, trained: SimpleNamespace, ending: str) -> None:
    file = model.export(trained.run.parent / f"style{ending}", style=2)
    picture = torch.from_numpy(trained.rows[0]["degraded"].copy()).permute(2, 0, 1)[None] / 255
    if ending == ".pt2":
        answer = torch.export.load(file).module()(picture).numpy()
    else:
        (answer,) = onnxruntime.InferenceSession(file).run(["answer"], {"picture": picture.numpy()})
    levels = 255 * answer[0].transpose(1, 2, 0)
    np.testing.assert_allclose(levels, pixels(model.predict(trained.photo, style=2)), atol=0.51)
    other = pixels(model.predict(trained.photo, style=1)).astype(float)
    assert np.abs(levels - other).max() > 2, "two styles look alike: the test could not tell which was written"


def test_exporting_without_a_style_says_what_to_name(trained: SimpleNamespace) -> None:
    for more, says in (((), "--style 3"), (("--style", "all"), "there is no style all: this model has 0 to")):
        words = ["export", str(trained.run), "--output", str(trained.run.parent / "all.pt2"), *more]
        stopped = CliRunner().invoke(create_app(), words)
        assert stopped.exit_code == 1 and says in str(stopped.exception)
    assert not (trained.run.parent / "all.pt2").exists()
