"""Published checkpoints become runs: what fits is converted to the number, what does not is said in one message."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import cynosure
from cynosure.build import build_datasets, complete
from cynosure.cli.app import main
from cynosure.config.recipe import load_recipe, make_recipe
from cynosure.core.records import Batch, Imported, LazyTensor, SampleSettings
from cynosure.errors import CheckpointError, CynosureError
from cynosure.host import Host, load_host
from cynosure.progress import Progress
from cynosure.run.convert import convert, require_fit
from cynosure.train.checkpoint import read_tensors
from cynosure.train.streaming import lazy_tensors, stream_tensors
from cynosure_plugins.importers.uvim import recipe
from cynosure_plugins.importers.uvim_sizes import Stage1, Stage2

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "uvim"
TASKS = {"panoptic": "panoptic", "depth": "depth", "color": "colorization"}
"""The name in files -> our task."""
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


def released(task: str, stage: int) -> Path:
    return GOLDEN / f"{task}_stage{stage}_params.npz"


def arrays(name: str) -> Arrays:
    with np.load(GOLDEN / name) as file:
        return dict(file)


def rewritten(task: str, stage: int, folder: Path, change: Callable[[Arrays], Arrays]) -> Path:
    """A released file with its arrays changed."""
    file = folder / f"changed{stage}.npz"
    write_npz(file, change(arrays(released(task, stage).name)))
    return file


def write_npz(file: Path, found: dict[str, Any]) -> None:
    np.savez(file, **found)


def refused(host: Host, folder: Path, *files: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert("uvim", files, folder / "out", host)
    assert not (folder / "out" / "model.safetensors").exists(), "a refused checkpoint leaves no model behind"
    return str(caught.value)


def images(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def batch(task: str, image: np.ndarray, labels: np.ndarray | None = None) -> Batch:
    targets = {}
    if labels is not None:
        y = images(labels)
        targets = {"panoptic": {"panoptic": y}, "depth": {"depth": y[:, 0]}, "color": {"rgb": y}}[task]
    rows = len(image)
    return Batch(TASKS[task], {"image": images(image)}, targets, torch.arange(rows), torch.ones(rows, dtype=torch.bool))


def patch_pixels(values: Arrays, prefix: str) -> np.ndarray:
    """The reference's logits [B, N, C, p * p], all label channels -> [B, C, H, W]."""
    names = [name for kind in ("semantics", "instances", "depth", "color") if (name := f"{prefix}/{kind}") in values]
    x = np.concatenate([values[name] for name in names], axis=2)
    rows, (side, patch) = len(x), (int(n**0.5) for n in (x.shape[1], x.shape[3]))
    x = x.reshape(rows, side, side, -1, patch, patch).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(rows, -1, side * patch, side * patch)


@pytest.mark.parametrize("task", TASKS)
def test_a_converted_model_gives_the_reference_numbers(task: str, tmp_path: Path, host: Host) -> None:
    """From the command line to the numbers: the oracle's codes, the base's outputs, the prior's greedy codes."""
    with pytest.raises(SystemExit) as done:
        main(["convert", "uvim", str(released(task, 1)), str(released(task, 2)), str(tmp_path / "out")])
    assert not done.value.code
    model = cynosure.load(tmp_path / "out", device="cpu", host=host).model
    known = arrays(f"{task}_stage1_io.npz")
    given = batch(task, known["image"], known["labels"])
    codes = model.encode(given)
    assert np.array_equal(codes.ids[..., 0], known["code"]), "the oracle writes other codes than the reference"
    wanted = patch_pixels(known, "logits")
    np.testing.assert_allclose(model.outputs(given, codes).numpy(), wanted, atol=2e-5, rtol=1e-5)
    known = arrays(f"{task}_stage2_io.npz")
    sampled = model.codes(batch(task, known["image"]), "prior", SampleSettings(temperature=0), torch.arange(2))
    assert sampled is not None
    assert np.array_equal(sampled.ids[..., 0] + 1, known["greedy_tokens"]), "the prior writes other codes"


def test_a_converted_model_answers_for_pictures(tmp_path: Path, host: Host) -> None:
    convert("uvim", [released("panoptic", 1), released("panoptic", 2)], tmp_path, host)
    prediction = cynosure.load(tmp_path, device="cpu", host=host).predict(np.zeros((48, 40, 3), np.uint8))
    assert prediction.values["class"].shape == (48, 40)
    assert [path.suffix for path in prediction.save(tmp_path / "answer.png")]


def test_stage_one_alone_is_a_model_without_prior(tmp_path: Path, host: Host) -> None:
    convert("uvim", [released("depth", 1)], tmp_path, host)
    predictor = cynosure.load(tmp_path, device="cpu", host=host)
    picture = np.zeros((40, 40, 3), np.uint8)
    assert np.isfinite(predictor.predict(picture, codes="none").values["depth"]).all()
    with pytest.raises(CynosureError, match="no trained prior"):
        predictor.predict(picture)


def test_stage_two_alone_starts_trainings_and_does_not_load(tmp_path: Path, host: Host) -> None:
    convert("uvim", [released("depth", 2)], tmp_path, host)
    tensors, told = read_tensors(tmp_path / "model.safetensors")
    assert told["parts"] == "prior" and all(name.startswith("prior.") for name in tensors)
    with pytest.raises(CheckpointError, match=r"only prior.* same folder.* init\.from"):
        cynosure.load(tmp_path, host=host)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_other_stage_completes_a_folder(order: tuple[int, int], tmp_path: Path, host: Host) -> None:
    for stage in order:
        convert("uvim", [released("color", stage)], tmp_path / "parts", host)
    convert("uvim", [released("color", 1), released("color", 2)], tmp_path / "whole", host)
    for name in ("model.safetensors", "recipe.yaml"):
        parts, whole = ((tmp_path / each / name).read_bytes() for each in ("parts", "whole"))
        assert parts == whole, f"stages that are converted one after the other make another {name}"


def test_a_folder_with_the_same_part_is_left_alone(tmp_path: Path, host: Host) -> None:
    convert("uvim", [released("depth", 1)], tmp_path, host)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="already holds tokenizer and base"):
        convert("uvim", [released("panoptic", 1)], tmp_path, host)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_trained_run_is_left_alone(tmp_path: Path, host: Host) -> None:
    stream_tensors(tmp_path / "model.safetensors", {}, {"format": "cynosure-1", "recipe": "{}"}, Progress())
    with pytest.raises(CheckpointError, match="was not made by `cynosure convert`"):
        convert("uvim", [released("depth", 2)], tmp_path, host)


def test_stages_of_different_models_do_not_join(tmp_path: Path, host: Host) -> None:
    text = refused(host, tmp_path, released("panoptic", 1), released("depth", 2))
    assert "make no model" in text and "prior.embedding.weight" in text


def test_two_files_of_one_stage_are_refused(tmp_path: Path, host: Host) -> None:
    assert "same stage" in refused(host, tmp_path, released("panoptic", 1), released("depth", 1))


def test_all_wrong_names_and_shapes_are_told_at_once(tmp_path: Path, host: Host) -> None:
    def change(found: Arrays) -> Arrays:
        del found["params/decoder_stem/bias"]
        found["params/dropout/rate"] = np.zeros(1)
        found["params/encoder_head/kernel"] = np.zeros((32, 31))
        return found

    def cut(found: Arrays) -> Arrays:
        del found["params/pos_embedding_encoder"]
        return found

    files = rewritten("panoptic", 1, tmp_path, change), rewritten("panoptic", 2, tmp_path, cut)
    text = refused(host, tmp_path, *files)
    for part in (
        "1 missing (params/decoder_stem/bias)",
        "1 left over (params/dropout/rate)",
        "params/encoder_head/kernel is [32, 31], wanted [32, 32]",
        "1 missing (params/pos_embedding_encoder)",
    ):
        assert part in text, f"{part} is not said in: {text}"


def test_a_file_of_another_system_is_recognised(tmp_path: Path, host: Host) -> None:
    write_npz(tmp_path / "vit.npz", {"Transformer/encoderblock_0/LayerNorm_0/scale": np.zeros(3), "cls": np.zeros(3)})
    assert "looks like a ViT for classification" in refused(host, tmp_path, tmp_path / "vit.npz")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    assert "looks like a PyTorch checkpoint" in refused(host, tmp_path, tmp_path / "weights.pt")


def test_an_unknown_source_names_the_known_ones(tmp_path: Path, host: Host) -> None:
    with pytest.raises(CynosureError, match="did you mean 'uvim'"):
        convert("uvm", [released("depth", 1)], tmp_path, host)


def test_damage_in_the_middle_of_a_file_leaves_nothing(tmp_path: Path, host: Host) -> None:
    file = rewritten("depth", 1, tmp_path, lambda found: found)  # stored, not compressed
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("params/encoder_head/kernel.npy").header_offset + 400
    content = bytearray(file.read_bytes())
    content[place] ^= 255
    file.write_bytes(content)
    assert "cannot be read" in refused(host, tmp_path, file)


def old_stage1(found: Arrays) -> Arrays:
    old = {"params/encoder/": "params/Encoder/", "params/decoder/": "params/Decoder/"}
    return {re.sub("|".join(old), lambda m: old[m[0]], name): value for name, value in found.items()}


def old_stage2(found: Arrays) -> Arrays:
    return {name.removeprefix("params/"): value for name, value in found.items()}


def test_old_names_give_the_same_model(tmp_path: Path, host: Host) -> None:
    files = [rewritten("panoptic", 1, tmp_path, old_stage1), rewritten("panoptic", 2, tmp_path, old_stage2)]
    convert("uvim", files, tmp_path / "old", host)
    convert("uvim", [released("panoptic", 1), released("panoptic", 2)], tmp_path / "new", host)
    old, new = ((tmp_path / age / "model.safetensors").read_bytes() for age in ("old", "new"))
    assert old == new


def test_bfloat16_arrays_are_read(tmp_path: Path, host: Host) -> None:
    def halve(found: Arrays) -> Arrays:
        halves = {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in found.items()}
        return {name: value.view("V2") for name, value in halves.items()}

    convert("uvim", [rewritten("depth", 2, tmp_path, halve)], tmp_path / "half", host)
    convert("uvim", [released("depth", 2)], tmp_path / "full", host)
    half, full = (read_tensors(tmp_path / each / "model.safetensors")[0] for each in ("half", "full"))
    for name, value in full.items():
        assert half[name].dtype == torch.float32
        assert torch.allclose(half[name], value, rtol=2**-7), f"{name} is not the same number in bfloat16"


def test_the_recipe_is_uvims_and_can_be_changed(tmp_path: Path, host: Host) -> None:
    convert("uvim", [released("depth", 1)], tmp_path, host, ["data.nyu.source=photos", "eval.batch_size=2"])
    recipe = cynosure.load(tmp_path, device="cpu", host=host).recipe
    assert recipe.data["nyu"]["source"] == "photos" and recipe.eval.batch_size == 2
    options = recipe.tasks["depth"].options
    assert (options["encoding"], options["bins"], options["resize"]) == ("bins", 16, "uvim")
    assert (tmp_path / "recipe.yaml").read_text() == recipe.to_yaml()


# Entries, parameters and a digest of all "name [shape]" lines of the released files, sorted.
RELEASED: list[tuple[Stage1 | Stage2, int, int, str]] = [
    (Stage1("panoptic", {"semantics": 134, "instances": 100}), 312, 226743808, "83702c03bbe5c5bd"),
    (Stage1("depth", {"depth": 256}), 308, 235399424, "cfb95e53afb960bb"),
    (Stage1("colorization", {"color": 3}), 308, 135851008, "6219b0b6e37bb6dd"),
    (Stage2(), 827, 715729921, "6f5b97d8be9abf6b"),
]


@pytest.mark.parametrize(("stage", "entries", "parameters", "digest"), RELEASED)
def test_the_released_sizes_are_understood(stage: Stage1 | Stage2, entries: int, parameters: int, digest: str) -> None:
    shapes = stage.shapes()
    lines = "\n".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
    assert len(shapes) == entries
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest, "names or shapes are not the released ones"
    assert type(stage).of(shapes) == stage, "the sizes read off the arrays are not the released ones"
    used = sorted(name for made in stage.table().values() for name in made.sources)
    assert used == sorted(shapes), "an array is used twice, or not at all"


@pytest.mark.parametrize("stage", [entry[0] for entry in RELEASED[:3]], ids=lambda stage: stage.task)
def test_released_models_are_those_of_the_paper_recipes(stage: Stage1, host: Host) -> None:
    converted = make_recipe(recipe(stage, Stage2()), [], host)
    paper = load_recipe(f"{stage.task}/paper", host=host)
    model = paper.model.model_dump()
    model["prior"]["encoder"]["weights"] = None  # what a training starts from is no part of the result
    assert converted.model.model_dump() == model
    assert converted.image_size == paper.image_size
    if stage.task == "panoptic":
        paper = complete(paper, build_datasets(paper, host), host)  # COCO's categories, which need no files
    ours, theirs = (host.components.config("task", r.tasks[stage.task].options) for r in (converted, paper))
    assert ours == theirs


@pytest.mark.parametrize("stage", [entry[0] for entry in RELEASED[:3]], ids=lambda stage: stage.task)
def test_released_arrays_make_all_tensors_of_the_model(stage: Stage1, host: Host) -> None:
    """Names and shapes at full size, without a single weight."""
    tensors = {}
    for each in (stage, Stage2()):
        for name, made in each.table().items():
            tensors[name] = LazyTensor(made.shape(each.shapes()), made.dtype, lambda: torch.zeros(0))
    imported = Imported(recipe(stage, Stage2()), tensors)
    require_fit(make_recipe(imported.recipe, [], host), imported, host)


def test_an_array_shorter_than_it_says_is_refused(tmp_path: Path, host: Host) -> None:
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive, archive.open("params/weight.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)}
        np.lib.format.write_array_header_1_0(file, header)
    assert "holds 0 bytes" in refused(host, tmp_path, tmp_path / "short.npz")


MEASURE = """
import resource, sys
from pathlib import Path
from cynosure.host import load_host
from cynosure.run.convert import convert

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

host, before = load_host(only=["import_uvim"]), peak()
convert("uvim", [Path(sys.argv[1])], Path(sys.argv[2]), host)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    stage = Stage2(dim=512, heads=8, mlp_dim=2048, encoder_depth=3, decoder_depth=3)
    with zipfile.ZipFile(tmp_path / "zeros.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, shape in stage.shapes().items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.zeros(shape, np.float32))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "zeros.npz"), str(tmp_path / "out")]
    needed = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert needed < size / 2, f"converting {size >> 20} MiB took {needed >> 20} MiB"


def test_streamed_files_are_safetensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = {
        "odd": torch.randn(3, 5, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "turned": torch.randn(4, 6).t(),
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
    }
    lazy = {name: LazyTensor(tuple(t.shape), t.dtype, partial(torch.clone, t)) for name, t in whole.items()}
    file = tmp_path / "new" / "model.safetensors"
    stream_tensors(file, lazy, {"a": "ü"}, Progress())
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"a": "ü"}
        assert all(torch.equal(opened.get_tensor(name), value) for name, value in whole.items())
    again = lazy_tensors(file)
    assert {name: (t.shape, t.dtype) for name, t in again.items()} == {k: (t.shape, t.dtype) for k, t in lazy.items()}
    assert all(torch.equal(t.make(), whole[name]) for name, t in again.items())


def test_a_tensor_that_lies_about_its_shape_leaves_no_file(tmp_path: Path) -> None:
    liar = LazyTensor((2, 2), torch.float32, lambda: torch.zeros(4))
    with pytest.raises(CheckpointError, match="weight came out as"):
        stream_tensors(tmp_path / "model.safetensors", {"weight": liar}, {}, Progress())
    assert not list(tmp_path.iterdir())


def test_plugins_are_told(tmp_path: Path, host: Host) -> None:
    convert("uvim", [released("depth", 1)], tmp_path, host)
    told = read_tensors(tmp_path / "model.safetensors")[1]
    assert "vit_oracle" in json.loads(told["plugins"])
