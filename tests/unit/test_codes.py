"""Guiding codes one can see and steer: kept codes stay, free ones vary, every map shows what its code does."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import make_predictor, open_session, save_run
from typer.testing import CliRunner

from cynosure.cli.app import create_app
from cynosure.core.records import Codes, CodeSpec, Segment
from cynosure.data.files import write_png
from cynosure.errors import CynosureError, DataError
from cynosure.run.codepictures import PANEL, cells, code_colors, codes_picture, mosaic, outlined, steering_picture
from cynosure.run.codes import all_codes, copies, occlusion, report
from cynosure.run.steering import check_codes, fix, in_box, read_codes, select

SPEC = CodeSpec((Segment("guide", 12, 1, 8),), (3, 4))
STRIP = CodeSpec((Segment("guide", 20, 2, 8),))
HIGH, WIDE = (300, 40), (30, 80)


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


# --- codes that are given


def test_given_codes_are_decoded_as_they_are(predictor):
    first = predictor.predict(photo(), "depth", temperature=1.0, seed=3)
    again = predictor.predict(photo(), "depth", codes=first.codes)
    assert np.array_equal(again.codes, first.codes)
    assert np.array_equal(again.values["depth"], first.values["depth"])
    flat = predictor.predict(photo(), "depth", codes=first.codes[:, 0].tolist())
    assert np.array_equal(flat.values["depth"], first.values["depth"]), "[L] is not read as [L, 1]"


def test_given_codes_need_no_prior(session):
    predictor = make_predictor(session)
    predictor.model.prior = None
    assert predictor.predict(photo(), "depth", codes=[1, 2, 3, 4]).codes[:, 0].tolist() == [1, 2, 3, 4]
    with pytest.raises(CynosureError, match="no trained prior"):
        predictor.predict(photo(), "depth", codes=[1, -1, 3, 4])


def test_known_codes_stay_and_free_ones_vary_by_seed_in_every_batch(predictor):
    known = [5, -1, 2, -1]
    photos = [photo(i) for i in range(3)]
    options = {"task": "depth", "samples": 8, "temperature": 1.0, "codes": known}
    answers = [p.codes[:, 0] for samples in predictor.predict(photos, batch_size=5, **options) for p in samples]
    assert len(answers) == 24
    assert all(a[0] == 5 and a[2] == 2 for a in answers), "a known code was overwritten"
    assert len({tuple(a) for a in answers}) > 8, "the free codes hardly vary"
    whole = [p.codes[:, 0] for samples in predictor.predict(photos, batch_size=64, **options) for p in samples]
    assert np.array_equal(whole, answers), "known codes make the answer depend on the batch"


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([1, 2, 3], r"integers of shape \[4, 1\], not int64 \[3\]"),
        ([0.0, 1.0, 2.0, 3.0], "integers of shape"),
        ([1, 2, 8, 3], "position 2 has codes 0 to 7 .* not 8"),
        ([1, -2, 3, 3], "position 1 has codes 0 to 7 .* not -2"),
    ],
)
def test_codes_that_do_not_fit_are_named(predictor, codes, message):
    with pytest.raises(CynosureError, match=message):
        predictor.predict(photo(), "depth", codes=codes)


def test_every_segment_keeps_to_its_own_vocabulary():
    spec = CodeSpec((Segment("scene", 2, 1, 4), Segment("image", 4, 1, 16)), (2, 2))
    assert check_codes([3, 0, 15, 15, 0, 0], spec).shape == (6, 1)
    with pytest.raises(CynosureError, match="position 1 has codes 0 to 3"):
        check_codes([3, 4, 15, 15, 0, 0], spec)


def test_every_depth_keeps_to_its_own_vocabulary():
    spec = CodeSpec((Segment("codes", 2, 2, 10, (10, 4)),))
    assert check_codes([[9, 3], [0, 0]], spec).shape == (2, 2)
    with pytest.raises(CynosureError, match=r"position 1 has codes 0 to 3 .* not 4"):
        check_codes([[9, 3], [0, 4]], spec)


def test_a_model_without_codes_says_so(tmp_path):
    session = open_session(tmp_path, "model.tokenizer=null", "model.prior=null", "train.stages=[codes]")
    predictor = make_predictor(session)
    with pytest.raises(CynosureError, match="no tokenizer, hence no codes"):
        predictor.predict(photo(), "depth", codes=[1, 2, 3, 4])
    with pytest.raises(CynosureError, match="no tokenizer, hence no codes"):
        report(predictor, photo(), "depth", [1, 2, 3, 4])


# --- regions


def positions(chosen):
    return np.flatnonzero(chosen).tolist()


def test_positions_and_ranges():
    assert positions(select(["0-3,8", " 11"], SPEC, None)) == [0, 1, 2, 3, 8, 11]
    assert positions(select([], SPEC, None)) == []


@pytest.mark.parametrize(
    ("box", "size", "wanted"),
    [
        ("0,0:1,1", HIGH, [0]),  # one pixel, in a picture much higher than wide
        ("0,0:40,100", HIGH, [0, 1, 2, 3]),  # exactly the first row
        ("0,99:40,101", HIGH, [0, 1, 2, 3, 4, 5, 6, 7]),  # touches two rows
        ("10,200:20,300", HIGH, [9]),
        ("20,0:40,30", WIDE, [1, 5, 9]),  # exactly the second column
        ("19,9:21,11", WIDE, [0, 1, 4, 5]),
        ("-50,-50:500,500", WIDE, list(range(12))),
        ("1,1:2,2", (2, 3), [5, 6, 9, 10]),  # a picture with fewer pixels than there are codes
    ],
)
def test_boxes_hold_the_codes_whose_cells_they_touch(box, size, wanted):
    assert positions(select([box], SPEC, size)) == wanted


def test_boxes_and_drawn_cells_agree():
    """What a user points at in the picture is what is kept."""
    for size in (HIGH, WIDE, (241, 197)):
        for position, (left, top, right, bottom) in cells(SPEC, size):
            inner = (left + 1, top + 1, right - 1, bottom - 1)
            assert positions(in_box(inner, SPEC, size)) == [position]


def test_boxes_point_at_the_segment_that_lies_on_the_picture():
    spec = CodeSpec((Segment("scene", 2, 1, 4), Segment("image", 4, 1, 16)), (2, 2))
    assert positions(select(["0,0:10,10"], spec, (20, 20))) == [2]
    assert [i for i, _ in cells(spec, (20, 20))] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("12", "positions 0 to 11, not 12"),
        ("5-3", "positions 0 to 11, not 5-3"),
        ("top", "'top' is no region: write positions and ranges"),
        ("5,5:5,9", "holds no pixel of the picture, which is 80x30"),
        ("90,0:99,9", "holds no pixel"),
    ],
)
def test_regions_that_are_none_are_named(region, message):
    with pytest.raises(CynosureError, match=message):
        select([region], SPEC, WIDE)


def test_a_box_needs_a_grid():
    with pytest.raises(CynosureError, match="lie on no picture"):
        select(["0,0:5,5"], STRIP, WIDE)


def test_keeping_resampling_and_setting():
    ids = np.arange(12)[:, None] % 8
    assert fix(ids, SPEC, None, keep=["0-1"])[:, 0].tolist() == [0, 1] + [-1] * 10
    assert positions(fix(ids, SPEC, None, resample=["0-1"])[:, 0] < 0) == [0, 1]
    assert fix(ids, SPEC, None, replace=["4=7"])[:, 0].tolist() == [0, 1, 2, 3, 7, 5, 6, 7, 0, 1, 2, 3]
    assert fix(ids, SPEC, None, resample=["0-11"], replace=["4=7"])[:, 0].tolist() == [-1] * 4 + [7] + [-1] * 7
    deep = fix(np.zeros((20, 2), int), STRIP, None, keep=["0"], replace=["1=3,4"])
    assert deep[:3].tolist() == [[0, 0], [3, 4], [-1, -1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": ["1"], "resample": ["2"]}, "not both"),
        ({"replace": ["4"]}, "sets no code"),
        ({"replace": ["4=1,2"]}, "gives 2 codes, but a position has 1"),
        ({"replace": ["4=8"]}, "position 4 has codes 0 to 7"),
        ({"replace": ["12=0"]}, "positions 0 to 11"),
    ],
)
def test_codes_that_cannot_be_set_are_named(options, message):
    with pytest.raises(CynosureError, match=message):
        fix(np.zeros((12, 1), int), SPEC, WIDE, **options)


# --- what codes do


def test_occlusion_is_the_change_when_one_code_is_dropped(predictor):
    model, task, ids = predictor.model, predictor.task("colorization"), np.array([[1], [5], [2], [7]])
    changes = occlusion(predictor, photo(), "colorization", ids, batch_size=3)
    assert changes.shape == (4, 16, 16) and changes.dtype == np.float32
    batch = copies(task, {"image": photo()}, 1)
    with torch.no_grad():
        vectors = model.tokenizer.vectors(Codes(torch.tensor(ids)[None], model.tokenizer.spec))
        whole = model.base(batch.inputs, vectors, "colorization")
        for i in range(4):
            thinned = vectors.clone()
            thinned[:, i] = 0
            wanted = (model.base(batch.inputs, thinned, "colorization") - whole).abs().mean(1)[0]
            assert torch.allclose(torch.from_numpy(changes[i]), wanted, atol=1e-5), f"position {i}"
            assert changes[i].max() > 1e-3, "the test's model ignores its codes"


def test_a_report_says_how_much_and_where(predictor):
    found = report(predictor, photo(), "depth", [1, 5, 2, 7])
    assert np.allclose(found.influence, found.changes.mean(axis=(1, 2)))
    changes = np.zeros_like(found.changes)
    changes[0, 0, 15] = changes[1, 15, 0] = 2.0
    told = type(found)(found.ids, found.spec, changes, None).to_dict((32, 160))
    assert told["centre"][:2] == [[155, 1], [5, 31]], "centres are not x, y in the picture's pixels"
    assert told["influence"][2] == 0 and told["ids"] == [1, 5, 2, 7] and told["certainty"] is None
    json.dumps(told)


def test_what_free_codes_do_cannot_be_told(predictor):
    with pytest.raises(CynosureError, match="every position needs a code"):
        report(predictor, photo(), "depth", [1, -1, 2, 7])


def test_certainty_is_one_where_every_draw_is_the_code_and_low_where_any_goes(predictor, monkeypatch):
    def draws(batch, source, settings, seeds):
        ids = torch.randint(0, 8, (len(batch), 4, 1), generator=torch.Generator().manual_seed(0))
        ids[:, 0] = 6
        return Codes(ids, predictor.model.tokenizer.spec)

    monkeypatch.setattr(predictor.model, "codes", draws)
    certainty = report(predictor, photo(), "depth", [6, 5, 2, 7], draws=64).certainty
    assert certainty[0] == pytest.approx(1)
    assert np.all((certainty[1:] >= 0) & (certainty[1:] < 0.5)), "codes at random look certain"


def test_all_codes_hold_every_code_of_every_level():
    codes = all_codes(STRIP)
    assert all(set(codes[..., level].ravel()) == set(range(8)) for level in range(2))
    mixed = CodeSpec((Segment("scene", 2, 1, 4), Segment("image", 4, 1, 16)), (2, 2))
    assert set(all_codes(mixed)[:, 2:].ravel()) == set(range(16)) and all_codes(mixed)[:, :2].max() == 3


# --- pictures


def test_colours_are_the_same_for_the_same_code_and_alike_for_near_ones(predictor):
    tokenizer = predictor.model.tokenizer
    words = tokenizer.quantizer.codewords
    colors = code_colors(tokenizer, np.array([[1], [1], [2], [3]])).astype(int)
    assert np.array_equal(colors[0], colors[1])
    assert not np.array_equal(colors[0], colors[2]) and not np.array_equal(words[1], words[2])
    again = code_colors(tokenizer, np.array([[3], [2], [1], [0]]))
    assert np.array_equal(again[0], colors[3]), "a code's colour depends on its neighbours"


def test_a_cell_shows_its_code():
    ground = np.full((60, 80, 3), 128, np.uint8)
    colors = np.zeros((12, 3), np.uint8)
    colors[6] = (255, 0, 0)
    shown = mosaic(ground, SPEC, colors, [""] * 12, strength=1.0)
    assert shown.shape == ground.shape
    red = np.argwhere(shown[..., 0] - shown[..., 1].astype(int) > 60)
    assert red.min(axis=0).tolist() == [20, 40] and red.max(axis=0).tolist() == [39, 59]
    assert mosaic(ground, STRIP, np.zeros((20, 3)), [""] * 20).shape == (3 * (PANEL // 8), PANEL // 8 * 8, 3)


def test_the_outline_surrounds_what_is_kept():
    ground = np.zeros((60, 80, 3), np.uint8)
    changed = (outlined(ground, SPEC, select(["5,6"], SPEC, None)) != ground).any(axis=-1)
    inside = np.zeros((60, 80), bool)
    inside[20:40, 20:60] = True
    assert changed[20, 20:60].all() and changed[20:40, 59].all() and not changed[~inside].any()
    assert not changed[28:32, 30:50].any(), "the kept region is covered"


@pytest.mark.parametrize("size", [(24, 30), (90, 20)])
def test_pictures_show_everything(predictor, size):
    image = photo(size=size)
    row = {"image": image}
    first = predictor.predict(row, "depth")
    picture = codes_picture(predictor, row, first, report(predictor, row, "depth", first.codes, draws=2))
    assert picture.width > 3 * 5 * 2 and picture.height > picture.width / 3
    known = fix(first.codes, predictor.model.tokenizer.spec, size, keep=["0"])
    new = predictor.predict(row, "depth", samples=3, codes=known)
    one, three = (steering_picture(predictor, row, first, new[:n], known) for n in (1, 3))
    assert three.width > one.width and three.height == one.height


# --- the command


def invoke(run, *arguments):
    done = CliRunner().invoke(create_app(), ["codes", str(run), *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_codes_are_drawn_written_and_steered(run, tmp_path):
    file, out = write_png(tmp_path / "photo.png", photo()), tmp_path / "out"
    invoke(run, file, "--task", "depth", "-o", out, "--resample", "0,0:5,5", "--samples", 2, "--temperature", 1)
    answers = [f"photo.depth-{i}{end}.png" for i in (1, 2) for end in ("", "_color")]
    pictures = ["photo.depth.codes.png", "photo.depth.steered.png"]
    assert sorted(f.name for f in out.iterdir()) == sorted([*answers, *pictures, "photo.depth.codes.json"])
    told = json.loads((out / "photo.depth.codes.json").read_text())
    assert told["grid"] == [2, 2] and len(told["influence"]) == len(told["certainty"]) == 4
    assert told["known"] == [-1, *told["ids"][1:]]
    assert [new[1:] for new in told["new"]] == [told["ids"][1:]] * 2
    assert Image.open(out / answers[0]).size == (30, 24)
    assert Image.open(out / pictures[0]).width > 3 * PANEL * 0.8


def test_codes_of_one_picture_can_be_given_to_another(run, tmp_path):
    one, other = (write_png(tmp_path / f"{i}.png", photo(i)) for i in (1, 2))
    invoke(run, one, "--task", "depth", "-o", tmp_path, "--codes", "random", "--seed", 5)
    told = tmp_path / "1.depth.codes.json"
    invoke(run, other, "--task", "depth", "-o", tmp_path, "--codes", told, "--set-code", "3=0")
    ids, moved = (json.loads((tmp_path / f"{i}.depth.codes.json").read_text()) for i in (1, 2))
    assert moved["ids"] == ids["ids"]
    assert moved["new"] == [[*ids["ids"][:3], 0]], "setting one code asks for one answer, with that code"


def test_oracle_codes_where_the_picture_is_the_truth(run, tmp_path):
    file = write_png(tmp_path / "photo.png", photo())
    assert invoke(run, file, "--task", "colorization", "-o", tmp_path, "--codes", "oracle").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "knows several tasks"),
        (["--task", "depth", "--keep", "9"], "positions 0 to 3"),
        (["--task", "depth", "--codes", "none"], "prior, oracle, random or a file"),
        (["--task", "depth", "--codes", "oracle"], "oracle needs the answer"),
    ],
)
def test_wishes_that_cannot_be_met_are_one_sentence(run, tmp_path, arguments, message):
    file = write_png(tmp_path / "photo.png", photo())
    with pytest.raises(CynosureError, match=message):
        invoke(run, file, *arguments, "-o", tmp_path / "out")


def test_other_files_hold_no_codes(tmp_path):
    file = tmp_path / "codes.json"
    for text in ("no json", "[1]", '{"ids": [1, 2]}', '{"ids": [[1], [2, 3]]}'):
        file.write_text(text)
        with pytest.raises(DataError, match="codes"):
            read_codes(file, SPEC)
