"""A model as one file that other programs run: the same pictures come out at any size, or one sentence says why not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import command
from torch import nn

from cynosure.build import build_model
from cynosure.config.recipe import load_recipe
from cynosure.errors import CynosureError
from cynosure.host import load_host
from cynosure.progress import ConsoleProgress, use_progress
from cynosure.registry import PluginEntry, load_registry
from cynosure.run import export as exporting
from cynosure.run.export import export, picture_network, write_verified
from cynosure.run.loading import load
from cynosure.run.predictor import Predictor

RECIPE = """
schema: 1
image_size: 32
data:
  scenes: {name: scenes, size: 32, train: 8, validation: 4, test: 4}
tasks:
  enhancement: {data: scenes, batch_size: 4}
model:
  base: {name: star_v2, dim: 8, grid: 8}
train:
  stages: [codes]
  codes: {steps: 4, lr: 1e-2, warmup: 0}
eval: {batch_size: 4, limit: 4}
"""
SIZES = ((64, 64), (480, 640), (37, 101), (8, 3))
HALF_A_LEVEL = 0.501
FORMATS = {"torch": ".pt2", "onnx": ".onnx"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of enhancement that has learnt a little, so that its curves are not all 0."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "recipe.yaml").write_text(RECIPE)
    assert command("train", folder / "recipe.yaml", "--output", folder / "run") == 0
    return folder / "run"


def published(task: str) -> Predictor:
    """STAR as it was released, which sees 256 x 256 pixels, untrained; tables that are no steeper than learnt ones."""
    host = load_host()
    changes = ["image_size=256", "model.base={name: star}", "tasks.enhancement=null", f"tasks.{task}={{data: scenes}}"]
    recipe = load_recipe("enhancement/tiny", changes, host)
    torch.manual_seed(0)
    model = build_model(recipe, host)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.set_stage(None)
    return Predictor(model, recipe, host)


def opened(file: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """The file as a function, by its format's own reader and nothing of ours."""
    if file.suffix == ".pt2":
        return torch.export.load(file).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return lambda picture: torch.from_numpy(session.run(None, {"picture": picture.numpy()})[0])


def require_same_answers(file: Path, model: Predictor, sizes: Any = SIZES) -> None:
    answer = opened(file)
    for height, width in sizes:
        levels = np.random.default_rng(height).integers(0, 120, (height, width, 3), dtype=np.uint8)
        wanted = model.predict(levels).values["rgb"]
        with torch.inference_mode():
            found = answer(torch.from_numpy(levels).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0).numpy()
        assert found.dtype == np.float32 and found.shape == wanted.shape
        worst = np.abs(255 * found - wanted).max()
        assert worst <= HALF_A_LEVEL, f"{file.name} is {worst:.3f} levels off at {height} x {width}"
        assert np.abs(255 * found - levels).max() > 3, "the model changes nothing, so the comparison says nothing"


@pytest.fixture(scope="module")
def files(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run in every format, by the command."""
    folder = tmp_path_factory.mktemp("exported") / "new"
    for ending in FORMATS.values():
        assert command("export", run, "-o", folder / f"model{ending}") == 0
    return {name: folder / f"model{ending}" for name, ending in FORMATS.items()}


@pytest.mark.parametrize("format", FORMATS)
def test_files_answer_as_the_model(run: Path, files: dict[str, Path], format: str) -> None:
    require_same_answers(files[format], load(run, device="cpu"))


def test_files_are_alone_in_their_folder(files: dict[str, Path]) -> None:
    """Nothing temporary is left over, and no file of weights beside them."""
    assert {each.name for each in files["torch"].parent.iterdir()} == {each.name for each in files.values()}


def test_files_say_what_they_are(files: dict[str, Path]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(files["onnx"])
    told = session.get_modelmeta().custom_metadata_map
    assert (told["task"], told["model_size"]) == ("enhancement", "32x32") and "0..1" in told["picture"]
    assert (session.get_inputs()[0].shape, session.get_outputs()[0].name) == ([1, 3, "height", "width"], "answer")
    extra = {"cynosure.json": ""}
    torch.export.load(files["torch"], extra_files=extra)
    assert json.loads(extra["cynosure.json"]) == told


@pytest.mark.slow
@pytest.mark.parametrize(("format", "task"), [("torch", "enhancement"), ("onnx", "retouching")])
def test_the_published_network_can_be_written_too(
    format: str, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pictures are smaller or larger than its maps, and its tokens do not divide what they average. Retouching
    looks colours up in a table."""
    model = published(task)
    use_progress(ConsoleProgress())
    file = model.export(tmp_path / "any.name", format=format)
    assert "largest difference from the model: " in capsys.readouterr().err
    require_same_answers(file.rename(file.with_suffix(FORMATS[format])), model, ((300, 420), (37, 101)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "model.bin"], "model.bin does not say in which format: end it in one of .pt2 (torch), .onnx (onnx)"),
        (["-o", "model.bin", "--format", "onxx"], "did you mean 'onnx'? (there is onnx, torch); a plugin adds one"),
        (["-o", "model.onnx", "--task", "depth"], "no task of this model is named 'depth'"),
        (["-o", "."], "it is a folder"),
    ],
)
def test_what_cannot_be_asked_for_is_said(
    run: Path, words: list[str], said: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("export", run, *words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_models_that_are_no_way_from_picture_to_picture_are_named(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", finished_run, "-o", tmp_path / "model.onnx", "--task", "depth") == 2
    assert "task depth cannot be exported: it has no network from a picture to a picture" in capsys.readouterr().err
    assert command("export", finished_run, "-o", tmp_path / "model.onnx") == 2
    assert "this model knows several tasks, name one of depth, colorization" in capsys.readouterr().err


def test_models_with_codes_are_refused() -> None:
    host = load_host()
    tokenizer = (
        "{name: vit_oracle, patch: 8, dim: 16, depth: 1, heads: 2, mlp_dim: 32, code_grid: [1, 1], context: false}"
    )
    changes = [f"model.tokenizer={tokenizer}", "model.tokenizer.quantizer={name: vq, vocab_size: 4, dim: 4}"]
    recipe = load_recipe("enhancement/tiny", changes, host)
    with pytest.raises(CynosureError, match="it answers from codes"):
        picture_network(Predictor(build_model(recipe, host), recipe, host))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_what_must_be_installed_is_said(run: Path, tmp_path: Path, package: str, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CynosureError, match=r"pip install -e '\.\[export\]'"):
        export(load(run, device="cpu"), tmp_path / "model.onnx")


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "model.txt"
    file.write_text("what was there before")
    wrong = lambda file: lambda picture: picture + 2e-4  # noqa: E731
    with pytest.raises(CynosureError, match=r"was not written: its answers differ from the model's by 0\.0002 of 1"):
        write_verified(file, nn.Identity(), lambda part: part.write_text("wrong"), wrong)
    nothing = lambda file: lambda picture: picture * float("nan")  # noqa: E731
    with pytest.raises(CynosureError, match="was not written"):
        write_verified(file, nn.Identity(), lambda part: part.write_text("nothing"), nothing)
    assert file.read_text() == "what was there before" and len(list(tmp_path.iterdir())) == 1


def test_what_torch_cannot_trace_is_said() -> None:
    class Stubborn(nn.Module):
        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return picture if picture.mean() > 0.5 else 1 - picture

    with pytest.raises(CynosureError, match=r"torch\.export cannot trace this model for pictures of any size"):
        exporting.traced(Stubborn())


def test_a_plugin_adds_a_format_and_a_task_its_network(run: Path, tmp_path: Path) -> None:
    """Through the doors that built-in ones use."""
    plugin = tmp_path / "layers.py"
    plugin.write_text(
        "from cynosure import hookimpl\n"
        "from cynosure.run.export import picture_network\n"
        "FORMATS = {'layers': '.txt'}\n"
        "@hookimpl\n"
        "def cynosure_export(model, format, path, task):\n"
        "    if format in FORMATS:\n"
        "        path.write_text(str(picture_network(model, task)))\n"
        "        return path\n"
    )
    registry = load_registry()
    registry.plugins["layers"] = PluginEntry(path=plugin)
    model = load(run, registry, device="cpu")
    task = model.task()
    task.network = lambda base: nn.Sequential(base)  # type: ignore[method-assign]
    assert "Sequential" in export(model, tmp_path / "layers.txt").read_text()
