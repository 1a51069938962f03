"""Loading a run and answering with it: any picture in, answers at its own size out, the same ones every time."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_run import make_predictor, open_session, save_run

import cynosure
from cynosure.cli import predict as command
from cynosure.core.records import Prediction
from cynosure.data.files import write_png
from cynosure.errors import CheckpointError, CynosureError, DataError
from cynosure.host import load_host
from cynosure.registry import PluginEntry, load_registry
from cynosure.run.predictor import read_row

SAMPLED = {"temperature": 1.0}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return open_session(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def predictor(session):
    return make_predictor(session)


@pytest.fixture(scope="module")
def run(session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    save_run(session, folder)
    return folder


def photo(seed=0, size=(24, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def depth_of(prediction):
    return prediction.values["depth"]


# --- sources


def test_every_kind_of_picture_gives_the_same_answer(predictor, tmp_path):
    image = photo()
    file = write_png(tmp_path / "photo.png", image)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    kinds = (image, file, str(file), file.read_bytes(), Image.fromarray(image), tensor)
    answers = [depth_of(predictor.predict(kind, "depth")) for kind in kinds]
    for kind, answer in zip(kinds, answers, strict=True):
        assert np.array_equal(answer, answers[0]), f"{type(kind).__name__} is answered differently"


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (90, 3), (16, 16)])
def test_answers_come_at_the_size_of_the_picture(predictor, size):
    assert depth_of(predictor.predict(photo(size=size), "depth")).shape == size
    assert predictor.predict(photo(size=size), "colorization").image().shape == (*size, 3)


def test_one_source_gives_one_prediction_and_lists_give_lists(predictor):
    assert isinstance(predictor.predict(photo(), "depth"), Prediction)
    assert [type(p) for p in predictor.predict([photo()], "depth")] == [Prediction]
    assert [type(p) for p in predictor.predict(photo(), "depth", samples=3)] == [Prediction] * 3
    nested = predictor.predict([photo(), photo(1)], "depth", samples=3)
    assert [len(samples) for samples in nested] == [3, 3]
    assert predictor.predict([], "depth") == []


def test_transparency_travels_with_the_answer_into_its_file(predictor, tmp_path):
    alpha = np.arange(24 * 30, dtype=np.uint8).reshape(24, 30)
    answers = predictor.predict([np.dstack([photo(), alpha]), photo()], "colorization")
    clear, opaque = (Image.open(a.save(tmp_path / f"{i}.png")[0]) for i, a in enumerate(answers))
    assert (clear.mode, opaque.mode) == ("RGBA", "RGB")
    assert np.array_equal(np.asarray(clear)[..., 3], alpha)
    assert np.array_equal(np.asarray(clear)[..., :3], np.asarray(opaque)), "transparency changed the colours"


def test_a_text_task_takes_strings():
    class Writing:
        name, inputs = "writing", ("caption",)

    class Painting:
        name, inputs, bits = "painting", ("caption", "image"), 8

    assert read_row(Writing(), "a red ball") == {"caption": "a red ball"}
    row = read_row(Painting(), {"caption": "a red ball", "image": photo()})
    assert row["caption"] == "a red ball" and row["image"].shape == (24, 30, 3)
    with pytest.raises(DataError, match="also needs image"):
        read_row(Painting(), "a red ball")


# --- reproducibility


def test_answers_do_not_depend_on_the_batch(predictor):
    photos = [photo(i) for i in range(5)]
    options = {"task": "depth", "samples": 3, "seed": 7, **SAMPLED}
    codes = [
        np.stack([[p.codes for p in samples] for samples in predictor.predict(photos, batch_size=size, **options)])
        for size in (1, 2, 4, 64)
    ]
    for other in codes[1:]:
        assert np.array_equal(codes[0], other), "batching changes what is sampled"
    assert np.array_equal(codes[0][:2], [[p.codes for p in s] for s in predictor.predict(photos[:2], **options)])


def test_seeds_sources_and_samples_are_told_apart(predictor):
    def codes(seed):
        same = [photo()] * 4
        answers = predictor.predict(same, "depth", samples=4, seed=seed, **SAMPLED)
        return [p.codes.tobytes() for samples in answers for p in samples]

    assert codes(0) == codes(0)
    assert codes(0) != codes(1)
    assert len(set(codes(0))) > 8, "sixteen samples of one picture are nearly all the same"
    likeliest = predictor.predict(photo(), "depth", samples=8, temperature=0.0)
    assert len({p.codes.tobytes() for p in likeliest}) == 1, "temperature 0 leaves nothing to chance"


def test_several_samples_differ_unless_the_temperature_says_otherwise(predictor):
    assert predictor.settings(samples=1).temperature == 0
    assert predictor.settings(samples=4).temperature == 0.8
    assert predictor.settings(samples=4, temperature=0.3).temperature == 0.3
    assert predictor.settings(top_k=5, top_p=0.9).top_k == 5
    with pytest.raises(CynosureError, match="top_p"):
        predictor.settings(top_p=2.0)


def test_arguments_may_be_of_numpy_and_lists(predictor):
    def codes(**options):
        return predictor.predict(photo(), "depth", temperature=1.0, **options).codes.tolist()

    assert codes(seed=np.int64(3)) == codes(seed=3)
    assert predictor.settings(top_k=[3], top_p=[0.5]) == predictor.settings(top_k=(3,), top_p=(0.5,))


# --- what can go wrong


def test_a_bad_source_is_named_and_can_be_collected(predictor, tmp_path):
    bad = tmp_path / "broken.jpg"
    bad.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        predictor.predict([photo(), bad], "depth")
    first, error, last = predictor.predict([photo(), bad, photo(1)], "depth", on_error="collect")
    assert isinstance(error, DataError)
    assert isinstance(first, Prediction)
    assert np.array_equal(depth_of(last), depth_of(predictor.predict([photo(), photo(), photo(1)], "depth")[2]))


def test_what_a_task_finds_wrong_with_one_source_is_collected_too(predictor, session):
    """Readable, and yet no row of the task: depths of another size than their picture."""
    good = dict(session.rows("depth", "test")[0])
    bad = {**good, "depth": good["depth"][::2]}
    first, error, last = predictor.predict([good, bad, good], "depth", codes="oracle", on_error="collect")
    assert isinstance(error, DataError) and isinstance(first, Prediction)
    alone = predictor.predict([good, good, good], "depth", codes="oracle")
    np.testing.assert_allclose(depth_of(last), depth_of(alone[2]), rtol=1e-5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_row_without_the_truth_spoils_no_other(predictor, session, order):
    row = dict(session.rows("depth", "test")[0])
    rows = [({"image": row["image"]}, row)[which] for which in order]
    for known, answered in zip(rows, predictor.predict(rows, "depth"), strict=True):
        alone = predictor.predict(known, "depth")
        np.testing.assert_allclose(depth_of(answered), depth_of(alone), rtol=1e-5)
    found = predictor.predict(rows, "depth", codes="oracle", on_error="collect")
    assert [isinstance(answer, DataError) for answer in found] == ["depth" not in each for each in rows]


def test_wishes_that_cannot_be_met_say_why(predictor):
    with pytest.raises(CynosureError, match="depth, colorization"):
        predictor.predict(photo())
    with pytest.raises(CynosureError, match="did you mean 'depth'"):
        predictor.predict(photo(), "detph")
    with pytest.raises(CynosureError, match="oracle needs the answer"):
        predictor.predict(photo(), "depth", codes="oracle")
    with pytest.raises(CynosureError, match="samples"):
        predictor.predict(photo(), "depth", samples=0)
    with pytest.raises(CynosureError, match="'orcale', did you mean 'oracle'"):
        predictor.predict(photo(), "depth", codes="orcale")
    with pytest.raises(CynosureError, match="batch_size"):
        predictor.predict(photo(), "depth", batch_size=-1)
    with pytest.raises(CynosureError, match="no on_error is named 'skip'"):
        predictor.predict(photo(), "depth", on_error="skip")
    with pytest.raises(CynosureError, match="there are no codes"):
        predictor.predict(photo(), "depth", codes=np.zeros((0, 4, 1), np.int64))


def test_a_row_that_holds_the_truth_can_use_oracle_codes(predictor, session):
    row = session.rows("depth", "test")[0]
    assert depth_of(predictor.predict(dict(row), "depth", codes="oracle")).shape == row["image"].shape[:2]


def test_sources_are_read_only_when_their_turn_comes(predictor):
    read = []

    def many():
        for i in range(1000):
            read.append(i)
            yield photo(i)

    answers = predictor.predict_iter(many(), "depth", batch_size=4)
    next(answers)
    assert len(read) == 4, "thousands of pictures would sit in memory"


def test_wrappers_change_the_request_and_the_answer(tmp_path):
    file = tmp_path / "wrap.py"
    file.write_text(
        "from cynosure import hookimpl\n@hookimpl(wrapper=True)\ndef cynosure_predict(model, request):\n"
        "    request.rows = [{**row, 'image': row['image'][:5]} for row in request.rows]\n"
        "    result = yield\n    return [p.with_values({'depth': p.values['depth'] + 100}) for p in result]\n"
    )
    registry = load_registry()
    registry = replace(registry, plugins={**registry.plugins, "wrap": PluginEntry(path=file)})
    predictor = make_predictor(open_session(tmp_path, host=load_host(registry)))
    depth = depth_of(predictor.predict(photo(), "depth"))
    assert depth.shape == (5, 30)
    assert depth.min() > 100


# --- loading


def test_a_loaded_run_answers_as_the_model_that_was_saved(run, predictor):
    loaded = cynosure.load(run, device="cpu")
    assert list(loaded.tasks) == ["depth", "colorization"]
    wanted, got = (depth_of(p.predict(photo(), "depth")) for p in (predictor, loaded))
    assert np.array_equal(wanted, got)
    assert not any(p.requires_grad or m.training for m in loaded.model.modules() for p in m.parameters())


def test_files_that_are_no_run_are_refused(session, run, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no .*nothing: train a run first"):
        cynosure.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        cynosure.load(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(CheckpointError, match="foreign file without a recipe"):
        cynosure.load(foreign)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((run / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        cynosure.load(cut)
    save_run(session, tmp_path / "old", format="cynosure-0")
    with pytest.raises(CheckpointError, match="cynosure-0"):
        cynosure.load(tmp_path / "old")


def test_weights_of_another_recipe_are_refused(session, tmp_path):
    other = session.recipe.with_values({"model.base.dim": 32})
    save_run(session, tmp_path / "mixed", recipe=other.to_yaml())
    with pytest.raises(CheckpointError, match="does not fit this model"):
        cynosure.load(tmp_path / "mixed")


def test_a_missing_plugin_is_named_with_its_remedy(session, run, tmp_path, monkeypatch):
    monkeypatch.setenv("CYNOSURE_DISABLE", "vq")
    with pytest.raises(CheckpointError, match=r"quantizer 'vq': its plugin 'vq' is disabled: set 'enabled: true'"):
        cynosure.load(run)
    monkeypatch.delenv("CYNOSURE_DISABLE")
    recipe = session.recipe.to_yaml().replace("name: hybrid", "name: star_base", 1)
    plugins = {p.name: p.version for p in session.host.plugins} | {"star": "2.1"}
    save_run(session, tmp_path / "star", recipe=recipe, plugins=json.dumps(plugins))
    with pytest.raises(CheckpointError, match=r"base 'star_base': its plugin 'star' 2.1 is unknown here"):
        cynosure.load(tmp_path / "star")


def test_loading_imports_nothing_that_the_registry_does_not_trust(session, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    save_run(session, tmp_path / "run", plugins=json.dumps({"evil": "1"}))
    cynosure.load(tmp_path / "run", device="cpu")
    assert "evil" not in sys.modules


# --- the command


def invoke(*arguments, cwd):
    """The command in a process of its own, as a user runs it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    call = [sys.executable, "-m", "cynosure", *map(str, arguments)]
    return subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_predict_does_the_good_and_names_the_bad(run, tmp_path):
    for folder in ("a", "b"):
        write_png(tmp_path / folder / "photo.png", photo())
    (tmp_path / "a" / "broken.jpg").write_bytes(b"no picture")
    done = invoke(
        "predict", run, "a", "b", "gone.jpg", "--task", "colorization", "--samples", 2, "--grid", cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    written = sorted(p.name for p in (tmp_path / "predictions").iterdir())
    names = [f"{folder}-photo.colorization-{i}.png" for folder in "ab" for i in (1, 2)]
    assert written == sorted([*names, "grid.png"])
    assert "broken.jpg" in done.stderr and "gone.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    assert Image.open(tmp_path / "predictions" / names[0]).size == (30, 24)


def test_predict_without_any_good_source_is_an_error(run, tmp_path):
    done = invoke("predict", run, "gone.jpg", "--task", "depth", cwd=tmp_path)
    assert done.returncode == 2
    assert "gone.jpg" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["a.png", "b.jpg"], ["a", "b"]),
        (["x/a.png", "y/a.png", "b.png"], ["x-a", "y-a", "b"]),
        (["a.png", "a.jpg"], ["a_png", "a_jpg"]),
        (["x/A.png", "y/a.png"], ["x-A", "y-a"]),
        (["a red ball", "a red ball"], ["a_red_ball", "a_red_ball_2"]),
    ],
)
def test_answers_never_share_a_file_name(sources, names):
    assert command.file_names(sources) == names


def test_a_name_in_any_script_fits_a_file_system():
    """These have room for 255 bytes, in which an answer's task and kind stand too."""
    (name,) = command.file_names(["\u732b" * 83 + ".png"])
    assert 50 < len(name) and len(f"{name}.panoptic-10_color.png".encode()) < 255


@pytest.mark.parametrize("name", ["a.depth.png", "a.depth-2.png", "a.depth_color.png", "a.depth.json", "grid.png"])
def test_an_input_is_never_overwritten(tmp_path, name):
    """Not by an answer, nor by the numbered samples, the preview, the segments or the grid beside it."""
    file = write_png(tmp_path / name, photo())
    inputs, answers = [str(tmp_path / "a.png"), str(file)], ["a.depth", "grid.depth"]
    with pytest.raises(CynosureError, match="replace the input"):
        command.refuse_to_overwrite(inputs, tmp_path, answers, grid=True)
    command.refuse_to_overwrite(inputs, tmp_path / "elsewhere", answers, grid=True)
    command.refuse_to_overwrite(inputs[:1], tmp_path, answers, grid=True)


def test_inputs_beside_the_answers_are_fine(tmp_path):
    inputs = [str(write_png(tmp_path / name, photo())) for name in ("a.png", "b.png", "grid.png")]
    command.refuse_to_overwrite(inputs, tmp_path, ["a.depth", "b.depth", "grid.depth"])
