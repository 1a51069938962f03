"""Pictures out of words, labels and nothing, through the command line: trained, made, measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import command
from PIL import Image

from cynosure.errors import CynosureError, DataError
from cynosure.run.loading import load

TEXT = """
schema: 1
image_size: 16
data:
  scenes: {name: scenes, size: 16, train: 12, validation: 4, test: 4}
tasks:
  text_to_image: {data: scenes, batch_size: 4}
model:
  tokenizer:
    name: maskgit
    channels: 32
    multipliers: [1, 1, 1]
    blocks: 1
    quantizer: {name: vq, vocab_size: 8, dim: 4, warmup_steps: 2, min_count: 1.0, commitment: 0.25}
  base: {name: maskgit, channels: 32, multipliers: [1, 1, 1], blocks: 1}
  prior:
    name: masked
    dim: 16
    depth: 1
    heads: 2
    mlp_dim: 32
    condition_dropout: 0.2
    encoder: {name: text, length: 40, dim: 16, depth: 1, heads: 2, mlp_dim: 32}
train:
  codes: {steps: 4, lr: 3e-3}
  prior: {steps: 6, lr: 2e-2, views: 1}
eval: {batch_size: 4, limit: 4, sampling: {temperature: 1.0}}
"""
LABEL = """
base: ./text.yaml
data: {scenes: null, pictures: {name: images, source: pictures, size: 16}}
tasks: {text_to_image: null, generation: {data: pictures, condition: label, batch_size: 4}}
model: {prior: {name: gpt, dim: 16, depth: 1, heads: 2, mlp_dim: 32, encoder: {name: label, classes: 10, dim: 16}}}
"""
NOTHING = """
base: ./text.yaml
tasks: {text_to_image: null, generation: {data: scenes, batch_size: 4}}
model: {prior: {encoder: null, condition_dropout: 0.0}}
"""
NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PROMPTS = ("a red sphere left of a small blue box", "a cone")


def classes(folder: Path, size: int) -> Path:
    """Ten folders of pictures, each of a level of grey."""
    for number, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (size, size), (25 * number + i,) * 3).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the runs text, label and nothing."""
    folder = tmp_path_factory.mktemp("generation")
    classes(folder / "pictures", 16)
    for name, recipe in (("text", TEXT), ("label", LABEL), ("nothing", NOTHING)):
        (folder / f"{name}.yaml").write_text(recipe)
        source = ["--set", f"data.pictures.source={folder / 'pictures'}"] if name == "label" else []
        assert command("train", folder / f"{name}.yaml", "--output", folder / name, *source) == 0
    return folder


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: np.asarray(Image.open(file)).tobytes() for file in folder.glob("*.png")}


def test_a_prompt_becomes_pictures(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("generate", folder / "text", *PROMPTS, "--samples", 2, "--grid", "-o", tmp_path) == 0
    named = [f"{stem}-{i}.png" for stem in ("a_red_sphere_left_of_a_small_blue_box", "a_cone") for i in (1, 2)]
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in [*named, "grid.png"]]
    assert Image.open(tmp_path / "a_cone-1.png").size == (16, 16)
    assert Image.open(tmp_path / "grid.png").width > 4 * 16


def test_the_same_seed_makes_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    """However many are computed at a time; another seed makes others."""
    for name, options in {"a": [], "b": ["--batch-size", 1], "c": ["--seed", 1]}.items():
        assert command("generate", folder / "text", *PROMPTS, "-n", 3, "-o", tmp_path / name, *options) == 0
    a, b, c = (pictures(tmp_path / name) for name in "abc")
    assert a == b and a != c and len(set(a.values())) > 1


def test_sampling_options_reach_the_prior(folder: Path, tmp_path: Path) -> None:
    changed = {"plain": [], "guidance": ["--guidance", 8], "greedy": ["--temperature", 0], "k": ["--top-k", 1]}
    changed["steps"] = ["--steps", 1]
    for name, options in changed.items():
        assert command("generate", folder / "text", *PROMPTS, "-n", 4, "-o", tmp_path / name, *options) == 0
    plain = pictures(tmp_path / "plain")
    for name in ("guidance", "greedy", "k", "steps"):
        assert pictures(tmp_path / name) != plain, f"--{name} changes nothing"


def test_classes_are_named_or_numbered(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, label in (("name", "horse"), ("number", 7)):
        assert command("generate", folder / "label", "--label", label, "-o", tmp_path / name) == 0
    assert pictures(tmp_path / "name") == pictures(tmp_path / "number") and (tmp_path / "name/horse.png").is_file()
    assert command("generate", folder / "label", "--label", "hrose", "-o", tmp_path) == 2
    assert "did you mean 'horse'?" in capsys.readouterr().err


def test_nothing_becomes_pictures(folder: Path, tmp_path: Path) -> None:
    assert command("generate", folder / "nothing", "--samples", 9, "--grid", "-o", tmp_path) == 0
    assert len(pictures(tmp_path)) == 10 and (tmp_path / "generation-9.png").is_file()


def test_a_base_that_reads_what_the_task_does_not_give_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vit = "model.base={name: vit, patch: 4, dim: 16, depth: 1, heads: 2, mlp_dim: 32}"
    for more in ([], ["--dry-run"]):
        assert command("train", folder / "text.yaml", "--output", tmp_path / "run", "--set", vit, *more) == 2
        said = capsys.readouterr().err
        assert "reads 'image', but task 'text_to_image' gives caption: choose a base" in said


@pytest.mark.parametrize(
    ("run", "words", "said"),
    [
        ("text", [], "nothing says what to make: task text_to_image makes pictures from a prompt"),
        ("text", ["--label", "3"], "takes no label"),
        ("label", ["a cat"], "takes no prompt: task generation makes pictures from a label"),
        ("nothing", ["a cat"], "takes no prompt: task generation makes pictures out of nothing"),
        ("nothing", ["--guidance", "2"], "guidance"),
    ],
)
def test_what_cannot_be_made_is_said(
    folder: Path, run: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("generate", folder / run, *words) == 2
    assert said in capsys.readouterr().err


def test_a_model_that_answers_about_pictures_makes_none(finished_run: Path) -> None:
    with pytest.raises(CynosureError, match="this model makes no pictures, it knows depth, colorization"):
        load(finished_run).generate()
    with pytest.raises(CynosureError, match="task depth answers about a picture: use `cynosure predict`"):
        load(finished_run).generate(task="depth")


def test_python_gives_what_was_asked_for(folder: Path) -> None:
    text, label, nothing = (load(folder / name) for name in ("text", "label", "nothing"))
    one = text.generate("a cone")
    assert one.image().shape == (16, 16, 3) and one.meta == {"caption": "a cone"}
    assert [len(samples) for samples in text.generate(["a cone", "a box"], samples=3, guidance=2.0)] == [3, 3]
    assert [p.meta["label"] for p in label.generate(labels=["cat", 9])] == [3, 9]
    assert len(nothing.generate(samples=5)) == 5
    with pytest.raises(DataError, match="makes pictures out of nothing"):
        nothing.predict("photo.png")


def test_pictures_are_reconstructed_with_the_oracles_codes(folder: Path, tmp_path: Path) -> None:
    """At their own size, and without a caption or label that nobody has."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (30, 20), (200, 40, 40)).save(photo)
    for run in ("text", "label", "nothing"):
        assert command("predict", folder / run, photo, "--codes", "oracle", "--grid", "-o", tmp_path / run) == 0
        (answer,) = (tmp_path / run).glob("photo.*.png")
        assert Image.open(answer).size == (30, 20)
        assert command("codes", folder / run, photo, "--codes", "oracle", "-o", tmp_path / run) == 0


@pytest.mark.parametrize("run", ["text", "label", "nothing"])
def test_evaluation_compares_reconstructions_only(folder: Path, tmp_path: Path, run: str) -> None:
    """A sample is another picture than the true one: that they differ says nothing."""
    assert command("eval", folder / run, "--json", tmp_path / "report.json") == 0
    (task,) = json.loads((tmp_path / "report.json").read_text())["tasks"].values()
    assert {column for column, values in task["metrics"].items() if "psnr" in values} == {"oracle", "none", "baseline"}
    assert task["codes"]["prior"]["nats per code"] > 0


def test_grids_show_the_words(folder: Path) -> None:
    from cynosure.build import Session
    from cynosure.run.grids import evaluation_grid

    sizes = []
    for run, task in (("text", "text_to_image"), ("nothing", "generation")):
        predictor = load(folder / run)
        session = Session.open(predictor.recipe, predictor.host)
        sizes.append(evaluation_grid(predictor, task, session.rows(task, "test"), 2, cell=64).size)
    assert sizes[0][0] > sizes[1][0], "no room was made for the captions"


SMALL = {
    "train.codes.steps": 2, "train.prior.steps": 2, "train.prior.accumulate": 1, "train.codes.warmup": 0,
    "train.prior.warmup": 0, "model.tokenizer.quantizer.vocab_size": 16,
}  # fmt: skip
SCENES = {"data.scenes.train": 4, "tasks.text_to_image.batch_size": 2}


@pytest.mark.parametrize(
    "recipe",
    [
        "generation/cifar10",
        "generation/cifar10_gpt",
        "generation/cifar10_rq",
        "text_to_image/tiny",
        "text_to_image/tiny_gpt",
    ],
)
def test_recipes_train(recipe: str, tmp_path: Path) -> None:
    pictures = {"data.photographs.source": classes(tmp_path / "pictures", 32), "tasks.generation.batch_size": 2}
    changes = SMALL | (SCENES if recipe.startswith("text") else pictures)
    sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    assert command("train", recipe, "--output", tmp_path / "run", *sets) == 0
    asked = ["a red box"] if recipe.startswith("text") else ["--label", "3"]
    assert command("generate", tmp_path / "run", *asked, "-o", tmp_path / "made") == 0
    assert len(list((tmp_path / "made").glob("*.png"))) == 1
