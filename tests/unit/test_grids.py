"""Grids show every picture whole, crisp where it is small, under its own header."""

import numpy as np
import pytest
from small_run import make_predictor, open_session

from cynosure.data.loading import evaluation_batches
from cynosure.errors import DataError
from cynosure.run import grids
from cynosure.run.grids import MARGIN, contact_sheet, evaluation_grid, fit, grid, photograph_grid

RED, BLUE = (250, 20, 20), (20, 20, 250)


def plain(colour, size=(16, 16)):
    return np.full((*size, 3), colour, np.uint8)


def box_of(sheet, colour):
    """Where a colour is: top, bottom, left, right of its pixels."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=-1))
    assert len(rows), f"the grid does not show {colour}"
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize(("size", "shown"), [((16, 16), (96, 96)), ((40, 20), (80, 40)), ((1, 3), (33, 99))])
def test_small_pictures_grow_by_a_whole_factor(size, shown):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    grown = np.asarray(fit(picture, 100))
    assert grown.shape[:2] == shown, "not the largest whole factor that fits"
    factor = grown.shape[0] // size[0]
    assert np.array_equal(grown[::factor, ::factor], picture), "pixels are blurred"


def test_big_pictures_shrink_and_keep_their_aspect():
    assert fit(plain(RED, (600, 400)), 150).size == (100, 150)
    assert fit(plain(RED, (3, 4000)), 100).size == (100, 1), "a strip must not vanish"


@pytest.mark.parametrize("size", [(300, 2), (1, 1), (2, 400)])
def test_the_thinnest_pictures_are_shown_too(size):
    sheet = grid([[plain(RED, size)]], ["input"], cell=32)
    assert np.asarray(sheet)[..., 0].max() > 200 > np.asarray(sheet)[..., 1].min()


def test_every_picture_stands_in_its_own_column_and_row():
    sheet = grid([[plain(RED), plain(BLUE)], [None, plain((20, 250, 20))]], ["input", "depth\nin metres"], cell=64)
    red, blue, green = (box_of(sheet, c) for c in (RED, BLUE, (20, 250, 20)))
    assert red[:2] == blue[:2], "one row, one height"
    assert red[3] < blue[2], "columns overlap"
    assert blue[1] < green[0], "rows overlap"
    assert blue[2:] == green[2:], "one column, one place"
    assert MARGIN < red[0], "no room for the headers"


def test_a_long_header_makes_its_column_wider_than_its_pictures():
    short = grid([[plain(RED)]], ["a"], cell=32)
    long = grid([[plain(RED)]], ["a header that says a lot about its column"], cell=32)
    assert long.width > short.width + 150


def test_row_labels_stand_left_of_the_pictures():
    bare = box_of(grid([[plain(RED)]], ["input"]), RED)
    labelled = box_of(grid([[plain(RED)]], ["input"], ["a long file name.jpg"]), RED)
    assert labelled[2] > bare[2] + 60


def test_pictures_without_a_header_are_refused():
    with pytest.raises(ValueError, match="2 pictures, but there are 1 headers"):
        grid([[plain(RED), plain(BLUE)]], ["input"])


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return open_session(tmp_path_factory.mktemp("run"))


@pytest.fixture
def drawn(monkeypatch):
    """What a grid was asked to show."""
    seen = {}

    def spy(rows, headers, row_labels=None, cell=0):
        seen.update(rows=rows, headers=[header.split("\n")[0] for header in headers])
        return grid(rows, headers, row_labels, cell)

    monkeypatch.setattr(grids, "grid", spy)
    return seen


def test_an_evaluation_shows_input_every_source_and_truth(session, drawn):
    predictor = make_predictor(session)
    model = predictor.model
    evaluation_grid(predictor, "depth", session.rows("depth", "test"), count=3)
    assert drawn["headers"] == ["input", "oracle codes", "prior codes", "no codes", "truth"]
    assert len(drawn["rows"]) == 3
    task = model.tasks["depth"]
    batch = next(evaluation_batches(task, session.rows("depth", "test"), 3))
    truth = task.draw(task.truth(batch)[0])
    assert np.array_equal(drawn["rows"][0][-1], truth)


def test_a_task_of_many_answers_shows_several(session, drawn):
    evaluation_grid(make_predictor(session), "colorization", session.rows("colorization", "test"), count=2, samples=2)
    headers = drawn["headers"]
    assert headers == ["input", "oracle codes", "prior codes", "another", "another", "no codes", "truth"]
    first, second = drawn["rows"][0][3:5]
    assert not np.array_equal(first, second), "both samples are the same"


def test_fewer_rows_than_wanted_are_shown_once(session, drawn):
    evaluation_grid(make_predictor(session), "depth", session.rows("depth", "validation"), count=9)
    assert len(drawn["rows"]) == 4, "padding is no row"
    with pytest.raises(DataError, match="no row"):
        evaluation_grid(make_predictor(session), "depth", [])


def test_pictures_are_those_that_plugins_draw(session, drawn, monkeypatch):
    """A plugin with its own colours for depth must find them in every sheet."""
    predictor = make_predictor(session)
    monkeypatch.setattr(predictor.host, "render", lambda prediction: plain(BLUE))
    evaluation_grid(predictor, "depth", session.rows("depth", "test"), count=1)
    pictures = dict(zip(drawn["headers"], drawn["rows"][0], strict=True))
    assert all((pictures[name] == BLUE).all() for name in ("oracle codes", "prior codes", "no codes", "truth"))


def test_photographs_keep_their_size_through_every_task(session, drawn):
    photos = [("wide", plain(RED, (20, 60))), ("high", plain(BLUE, (50, 10)))]
    photograph_grid(make_predictor(session), photos)
    assert drawn["headers"] == ["input", "depth", "colorization", "colorization, again"]
    for row, size in zip(drawn["rows"], [(20, 60), (50, 10)], strict=True):
        assert all(picture.shape == (*size, 3) for picture in row)


def test_a_contact_sheet_holds_every_picture_above_its_words() -> None:
    red, blue = (np.full((16, 16, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    sheet = np.asarray(contact_sheet([("red pictures", [red] * 3), ("a blue one", [blue])], cell=32, across=6))
    reds, blues = (int((sheet == colour).all(-1).sum()) for colour in ((200, 0, 0), (0, 0, 200)))
    assert 700 < blues < 32 * 32 and reds == 3 * blues, "pictures are missing, cut or of another size"
    tall = contact_sheet([("one two three four five six seven eight nine ten", [red])], cell=32)
    assert tall.height > contact_sheet([("one", [red])], cell=32).height, "long words were not wrapped"
    assert contact_sheet([("", [red] * 14)], cell=32, across=6).height > 3 * 32


def test_lines_of_a_contact_sheet_are_even() -> None:
    """Nine of at most eight are five and four: nobody wants a line of one."""
    sheet = np.asarray(contact_sheet([("", [plain(RED, (32, 32))] * 9)], cell=32, across=8))
    columns = (sheet == RED).all(-1)
    assert columns[: len(sheet) // 2].any(0).sum() > columns[len(sheet) // 2 :].any(0).sum() > 3 * 32 - 16
