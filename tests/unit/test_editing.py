"""Editing: what a mask selects is drawn anew, with a soft edge; everything else keeps every pixel."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import PAINTER, make_predictor, open_session, save_run
from typer.testing import CliRunner

from cynosure.cli.app import create_app
from cynosure.core.records import CodeSpec, Segment
from cynosure.data.files import write_png
from cynosure.errors import CynosureError, DataError
from cynosure.run.editing import Selection, blurred, edit, fading, read_mask, window
from cynosure.run.steering import grids, touched

SETS = (
    "tasks={painting: {name: text_to_image, data: scenes},"
    " colorization: {data: scenes, encoding: residual, augment: none},"
    " depth: {data: scenes, encoding: log, min_depth: 1.0, max_depth: 16.0, augment: none}}",
    *PAINTER,
    "model.prior={name: masked, dim: 16, depth: 1, heads: 2, mlp_dim: 32, dropout: 0.0, steps: 4}",
    "eval.sampling.temperature=1.0",
)
SAME = {"task": "painting", "caption": "a ball"}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return open_session(tmp_path_factory.mktemp("run"), *SETS)


@pytest.fixture(scope="module")
def predictor(session):
    return make_predictor(session)


@pytest.fixture(scope="module")
def run(session, tmp_path_factory):
    save_run(session, folder := tmp_path_factory.mktemp("runs") / "small")
    return folder


def photo(size=(32, 48), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def hole(size=(32, 48), box=(20, 4, 30, 12)):
    mask = np.zeros(size, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def changed(before, after):
    """(left, top, right, bottom) of all that differs."""
    rows, columns = np.nonzero((before != after).any(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


# --- what changes, and what does not


@pytest.mark.parametrize("task", [SAME, {"task": "colorization"}])
def test_only_what_is_selected_and_its_edge_change(predictor, task):
    image, mask = photo(), hole()
    answer = predictor.edit(image, mask, seed=3, **task).values["rgb"]
    assert answer.shape == image.shape and answer.dtype == np.uint8
    assert (answer != image).any(axis=-1)[mask].mean() > 0.9, "the selected pixels are the old ones"
    left, top, right, bottom = changed(image, answer)  # a code stands for 4 x 4 pixels of the 32 x 32 that are seen
    assert 14 <= left and right <= 36 and top >= 0 and bottom <= 16, "pixels beyond a cell beside the hole have changed"


def test_a_blurred_edge_frees_a_margin_and_reaches_into_it(predictor):
    image, mask = photo((16, 16)), hole((16, 16), (8, 8, 10, 10))
    truth = predictor.predict({"image": image, "caption": "a ball"}, "painting", codes="oracle").codes
    wide = touched(hole((16, 16), (6, 6, 12, 12)), predictor.model.tokenizer.spec)
    answers = predictor.edit(image, mask, samples=6, edge="blur", **SAME)
    assert wide.sum() == 9 and all(np.array_equal(a.codes[~wide], truth[~wide]) for a in answers)
    assert any((a.codes[wide] != truth[wide]).sum() > 4 for a in answers), "the margin stays"


def test_known_codes_stay_and_free_ones_vary(predictor):
    image, mask = photo((16, 16)), hole((16, 16), (4, 4, 8, 8))
    truth = predictor.predict({"image": image, "caption": "a ball"}, "painting", codes="oracle").codes
    free = touched(mask, predictor.model.tokenizer.spec)
    answers = predictor.edit(image, mask, samples=6, **SAME)
    assert free.sum() == 4 and all(np.array_equal(a.codes[~free], truth[~free]) for a in answers)
    assert len({a.codes.tobytes() for a in answers}) > 3


def test_the_same_seed_gives_the_same_picture(predictor):
    first, again, other = (predictor.edit(photo(), hole(), seed=s, **SAME).values["rgb"] for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    two = predictor.edit(photo(), hole(), seed=1, samples=2, **SAME)
    assert np.array_equal(two[0].values["rgb"], first), "a sample depends on how many there are"


def test_masks_and_boxes_that_select_the_same_draw_the_same(predictor):
    image, box = photo(), (20, 4, 30, 12)
    by_mask = predictor.edit(image, hole(box=box), **SAME).values["rgb"]
    assert np.array_equal(predictor.edit(image, boxes=[box], **SAME).values["rgb"], by_mask)
    assert np.array_equal(predictor.edit(image, ~hole(box=box), invert=True, **SAME).values["rgb"], by_mask)


def test_a_mask_over_everything_is_plain_sampling(predictor):
    image = photo((16, 16))
    answer = predictor.edit(image, np.ones((16, 16), bool), seed=5, **SAME)
    plain = predictor.predict({"image": image, "caption": "a ball"}, "painting", seed=5)
    assert np.array_equal(answer.codes, plain.codes)
    assert np.array_equal(answer.values["rgb"], plain.values["rgb"])


def test_the_caption_decides_what_is_drawn(tmp_path):
    """Class-conditional editing: something else in the box, the rest as it was."""
    encoder = "model.prior.encoder={name: text, dim: 16, depth: 1, heads: 2, mlp_dim: 32, length: 8}"
    predictor = make_predictor(open_session(tmp_path, *SETS, encoder))
    texts = ("a red ball", "two blue boxes")
    balls, boxes = (predictor.edit(photo(), hole(), "painting", caption=text, samples=16) for text in texts)
    assert [p.codes.tolist() for p in balls] != [p.codes.tolist() for p in boxes]
    for answer in (*balls, *boxes):
        assert np.array_equal(answer.values["rgb"][20:], photo()[20:])


# --- outpainting


def test_a_picture_grows(predictor):
    image = photo((24, 24))
    answer = predictor.edit(image, expand=(0, 0, 12, 0), **SAME).values["rgb"]
    assert answer.shape == (24, 36, 3)
    assert np.array_equal(answer[:, :18], image[:, :18]), "what lies more than a cell from the new border has changed"
    assert (answer[:, 24:] != image[:, -1:]).any(), "the new border is the old edge, repeated"
    both = predictor.edit(image, boxes=[(0, 0, 4, 4)], expand=(0, 6, 0, 0), **SAME).values["rgb"]
    assert both.shape == (30, 24, 3), "boxes are counted in the picture that was given"


def test_a_hole_wider_than_the_window_is_drawn_in_the_squeezed_picture(predictor):
    image = photo((16, 40))
    mask = hole((16, 40), (0, 4, 40, 8))
    answer = predictor.edit(image, mask, **SAME).values["rgb"]
    assert answer.shape == image.shape
    assert (answer != image).any(axis=-1)[mask].mean() > 0.9
    assert np.array_equal(answer[13:], image[13:])


@pytest.mark.parametrize(
    ("size", "box", "aspect", "wanted"),
    [
        ((32, 48), (20, 4, 30, 12), (16, 16), (0, 32, 9, 41)),  # as central as can be
        ((32, 48), (0, 0, 2, 2), (16, 16), (0, 32, 0, 32)),
        ((32, 48), (40, 0, 48, 2), (16, 16), (0, 32, 16, 48)),
        ((48, 32), (0, 20, 32, 48), (16, 16), (16, 48, 0, 32)),
        ((32, 48), (4, 0, 40, 2), (16, 16), None),
        ((32, 48), (4, 0, 40, 2), (16, 24), (0, 32, 0, 48)),
    ],
)
def test_the_window_is_the_largest_that_holds_the_hole(size, box, aspect, wanted):
    found = window(hole(size, box), aspect)
    assert (None if found is None else (found[0].start, found[0].stop, found[1].start, found[1].stop)) == wanted


# --- masks


def encoded(image):
    image.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def test_every_kind_of_mask_is_read(tmp_path):
    wanted = hole()
    grey = np.where(wanted, 255, 0).astype(np.uint8)
    brush = Image.fromarray(np.dstack([np.full((32, 48, 3), 255, np.uint8), grey]))  # white on a transparent ground
    masks = {
        "bool": wanted,
        "grey": grey,
        "grey, soft": np.where(wanted, 140, 100).astype(np.uint8),
        "floats": wanted.astype(np.float32),
        "RGB": np.repeat(grey[..., None], 3, axis=2),
        "alpha": brush,
        "PNG": encoded(Image.fromarray(grey)),
        "one bit": encoded(Image.fromarray(grey).convert("1")),
        "palette": encoded(Image.fromarray(grey).convert("P")),
        "tensor": torch.from_numpy(wanted),
        "file": write_png(tmp_path / "mask.png", grey),
    }
    for name, mask in masks.items():
        assert np.array_equal(read_mask(mask, (32, 48)), wanted), name


def test_a_mask_of_0_and_1_says_what_white_is():
    mask = np.zeros((32, 48), np.uint8)
    assert not read_mask(mask, (32, 48)).any()
    mask[3:9] = 1
    with pytest.raises(DataError, match=r"^the mask holds only 0 and 1, where white is 255"):
        read_mask(mask, (32, 48))


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"mask": np.ones((48, 32), bool)}, DataError, "^the mask has 32x48 pixels and the picture 48x32"),
        ({"mask": np.zeros((32, 48), bool)}, CynosureError, "nothing to draw anew: give a mask with some white"),
        ({"mask": np.ones((32, 48), bool), "invert": True}, CynosureError, "give a mask with some black"),
        ({}, DataError, "nothing to draw anew"),
        ({"mask": "nowhere.png"}, DataError, "'nowhere.png' does not exist"),
        ({"boxes": [(48, 0, 60, 8)]}, DataError, "48,0:60,8 holds no pixel of the picture, which is 48x32"),
        ({"expand": (0, 0, 4, 0), "edge": "blurr"}, CynosureError, "'blurr'.*'blur'"),
        ({"expand": (0, 0, -2, 0)}, CynosureError, "expands by 0 pixels or more on each side, not -2"),
        ({"expand": (0, 0, 10**7, 0)}, CynosureError, "more than 178 million pixels"),
    ],
)
def test_selections_that_cannot_be_are_one_sentence(predictor, given, kind, message):
    with pytest.raises(kind, match=message):
        predictor.edit(photo(), **given, **SAME)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "depth"}, "task depth does not answer with a picture such as this one"),
        ({"task": "painting"}, "task painting also needs a caption"),
        ({"task": "colorization", "caption": "a ball"}, "task colorization reads no caption"),
        ({"task": "painting", "label": 1, "caption": "a ball"}, "task painting reads no label"),
        ({"task": "paintings"}, "did you mean 'painting'"),
        ({}, "several tasks"),
    ],
)
def test_tasks_that_cannot_be_edited_say_why(predictor, given, message):
    with pytest.raises(CynosureError, match=message):
        predictor.edit(photo(), hole(), **given)


# --- codes


def test_coarse_and_fine_scales_are_freed_by_their_own_cells():
    """As VAR edits: at every scale, the codes whose cells touch the hole."""
    spec = CodeSpec(tuple(Segment(f"{s}x{s}", s * s, 1, 8) for s in (1, 2, 4)), (4, 4))
    free = np.flatnonzero(touched(hole((8, 8), (6, 0, 8, 1)), spec)).tolist()
    assert free == [0, 1 + 1, 5 + 3]
    latents = CodeSpec((Segment("latent0", 6, 1, 5), Segment("latent1", 6, 1, 7)), (2, 3))
    assert np.flatnonzero(touched(hole((8, 9), (6, 0, 9, 1)), latents)).tolist() == [2, 6 + 2]


SCALES = "model.tokenizer.quantizer={name: multiscale, vocab_size: 16, dim: 4, scales: [1, 2, 4, 8]}"
DEEP = "model.tokenizer.quantizer={name: rq, vocab_size: 16, dim: 4, depth: 3}"


@pytest.mark.parametrize(
    ("prior", "quantizer"),
    [("autoregressive", SCALES), ("gpt", DEEP), ("masked", SCALES), ("rq_transformer", DEEP), ("next_scale", SCALES)],
)
def test_every_prior_keeps_the_codes_beside_the_hole(tmp_path, prior, quantizer):
    small = f"model.prior={{name: {prior}, dim: 16, depth: 1, heads: 2, mlp_dim: 32}}"
    embedding = ["model.prior.embedding=separate"] if prior == "rq_transformer" else []
    predictor = make_predictor(open_session(tmp_path, *SETS, quantizer, small, *embedding))
    image, mask = photo((16, 16)), hole((16, 16), (8, 8, 12, 12))
    truth = predictor.predict({"image": image, "caption": ""}, "painting", codes="oracle").codes
    free = touched(mask, predictor.model.tokenizer.spec)
    answers = predictor.edit(image, mask, samples=8, temperature=3.0, **SAME)
    assert 0 < free.sum() < len(free) and all(np.array_equal(a.codes[~free], truth[~free]) for a in answers)
    assert len({a.codes.tobytes() for a in answers}) > 4
    assert all(np.array_equal(a.values["rgb"][:6], image[:6]) for a in answers)


def test_codes_without_a_place_cannot_be_edited(predictor, monkeypatch):
    scene = CodeSpec((Segment("scene", 3, 1, 16), Segment("image", 64, 1, 16)), (8, 8))
    assert grids(scene) == [None, (8, 8)]
    for spec in (scene, replace(scene, grid=None)):
        monkeypatch.setattr(type(predictor.model.tokenizer), "spec", spec)
        with pytest.raises(CynosureError, match=r"'.*' of this model lie on no grid"):
            predictor.edit(photo(), hole(), **SAME)


def test_the_edge_fades_over_one_cell():
    cells = np.zeros((4, 4), bool)
    cells[1, 1] = True
    share = fading(cells, (40, 80))
    assert (share[10:20, 20:40] == 1).all() and share.max() == 1 and share.dtype == np.float32
    assert (share[31:] == 0).all() and (share[:, 60:] == 0).all()
    beside = share[15, 40:60]
    assert (np.diff(beside) < 0).all() and beside[0] > 0.9 and beside[-1] < 0.1


@pytest.mark.parametrize("edge", [fading, blurred])
def test_nothing_is_soft_where_everything_is_new(edge):
    assert (edge(np.ones((2, 2), bool), (6, 6)) == 1).all()


def test_the_canvas_shows_what_is_drawn_anew(predictor):
    found = edit(predictor, photo(), Selection(hole()), "painting", {"caption": "a ball"}, samples=2)
    assert len(found.predictions) == 2
    shaded = found.canvas.shaded()
    assert (shaded[hole()] == 128).all() and np.array_equal(shaded[~hole()], photo()[~hole()])


# --- the command


def invoke(run, *arguments):
    done = CliRunner().invoke(create_app(), ["predict", str(run), *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture
def file(tmp_path):
    return write_png(tmp_path / "photo.png", photo())


def read(path):
    return np.asarray(Image.open(path))


def test_the_command_draws_what_python_draws(run, predictor, file, tmp_path):
    mask, out = write_png(tmp_path / "mask.png", np.where(hole(), 255, 0).astype(np.uint8)), tmp_path / "out"
    options = ["--task", "painting", "--caption", "a ball", "-o", out, "--seed", 4]
    invoke(run, file, *options, "--mask", mask, "--samples", 2, "--grid")
    wanted = predictor.edit(photo(), hole(), samples=2, seed=4, **SAME)
    for number, answer in enumerate(wanted, start=1):
        assert np.array_equal(read(out / f"photo.painting-{number}.png"), answer.values["rgb"])
    assert (out / "grid.png").is_file()
    invoke(run, file, *options, "--box", "20,4:30,12", "--expand", "0,0,0,8", "--invert", "--edge", "blur")
    wanted = predictor.edit(
        photo(), boxes=[(20, 4, 30, 12)], expand=(0, 0, 0, 8), invert=True, edge="blur", seed=4, **SAME
    )
    assert (
        np.array_equal(read(out / "photo.painting.png"), wanted.values["rgb"]) and wanted.values["rgb"].shape[0] == 40
    )


def test_pictures_go_to_the_tasks_that_read_them(run, file, tmp_path):
    """Without --task: a task that makes pictures of a caption would take the file's name for one."""
    done = invoke(run, file, "-o", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["photo.colorization.png", "photo.depth.png", "photo.depth_color.png"] and done.exit_code == 0


def test_what_was_transparent_stays_so_where_nothing_is_drawn(run, tmp_path):
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:, 24:] = 200
    picture = write_png(tmp_path / "glass.png", np.dstack([photo(), alpha]))
    invoke(run, picture, "--task", "colorization", "--box", "0,0:6,6", "--expand", "0,0,0,4", "-o", tmp_path / "out")
    edited = np.asarray(Image.open(tmp_path / "out" / "glass.colorization.png"))
    assert edited.shape == (36, 48, 4)
    assert (edited[:6, :6, 3] == 255).all() and (edited[32:, :, 3] == 255).all(), "what is drawn cannot be seen"
    assert (edited[14:20, :24, 3] == 0).all() and (edited[14:20, 24:, 3] == 200).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", "1,2,3"], "'1,2,3' is no box: write x0,y0:x1,y1"),
        (["--expand", "8"], "'8' are no borders: write left,top,right,bottom"),
        (["--expand", "0,0,0,0"], "adds nothing"),
        (["--invert"], "needs a --mask or a --box"),
        (["--edge", "blur"], "--edge blur is for what is drawn anew: say where"),
        (["--caption", "a ball"], "also say where, by --mask"),
        (["--box", "0,0:9,9", "--codes", "random"], "leave --codes random out"),
        (["--box", "90,0:99,9", "--caption", "a ball"], "holds no pixel"),
        (["--box", "0,0:9,9", "--top-k", "5,4", "--caption", "a ball"], "top_k has 2 values, but codes have depth 1"),
        (["--box", "0,0:9,9", "--guidance", "3", "--caption", "a ball"], "trained with condition_dropout"),
    ],
)
def test_wishes_that_cannot_be_met_are_one_sentence(run, file, tmp_path, arguments, message):
    with pytest.raises(CynosureError, match=message):
        invoke(run, file, "--task", "painting", "-o", tmp_path / "out", *arguments)


def test_a_picture_that_the_mask_does_not_fit_is_named(run, file, tmp_path):
    other = write_png(tmp_path / "other.png", photo((20, 20)))
    mask = write_png(tmp_path / "mask.png", np.where(hole(), 255, 0).astype(np.uint8))
    options = ["--task", "colorization", "--mask", mask, "-o", tmp_path / "out"]
    done = invoke(run, file, other, *options)
    assert done.exit_code == 1 and "48x32 pixels and the picture 20x20" in done.output
    assert (tmp_path / "out" / "photo.colorization.png").is_file()
