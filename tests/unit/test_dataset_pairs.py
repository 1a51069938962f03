"""Two folders become pairs: the usual data sets are recognised, names find their truth, and what is odd is named."""

import os
import pickle
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from cynosure.errors import DataError
from cynosure_plugins.datasets.pairs import Pairs

SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "data"


def pairs(root, **options) -> Pairs:
    return Pairs(Pairs.Config(root=str(root), **options))


def write(file: Path, value: int, size=(8, 6)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(file)


def write_pairs(inputs: Path, targets: Path, numbers: range) -> None:
    """Pair `n` has the levels n and 100 + n."""
    for n in numbers:
        write(inputs / f"{n:03}.png", n)
        write(targets / f"{n:03}.png", 100 + n)


def levels(rows) -> list[tuple[int, int]]:
    return [(int(row["degraded"][0, 0, 0]), int(row["image"][0, 0, 0])) for row in rows]


def test_fivek_is_recognised_and_any_expert_can_be_the_truth(root):
    write_pairs(root / "Inputs_jpg", root / "Experts_C", range(20))
    for n in range(20):
        write(root / "Experts_E" / f"{n:03}.png", 200 + n)
    data = pairs(root)
    assert data.info.fields == ("degraded", "image")
    parts = [levels(data.rows(split)) for split in SPLITS]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert sorted(chain(*parts)) == [(n, 100 + n) for n in range(20)]
    assert parts == [levels(pairs(root).rows(split)) for split in SPLITS], "the same every time"
    assert [data.count(split) for split in SPLITS] == [16, 2, 2]
    assert all(truth == 200 + n for n, truth in levels(pairs(root, expert="E").rows("train")))


def test_lol_comes_with_its_test_split(root):
    write_pairs(root / "our485" / "low", root / "our485" / "high", range(20))
    write_pairs(root / "eval15" / "low", root / "eval15" / "high", range(50, 53))
    for layout in ("auto", "lol"):
        data = pairs(root, layout=layout)
        assert levels(data.rows("test")) == [(50, 150), (51, 151), (52, 152)]
        assert len(data.rows("train")) == 18 and len(data.rows("validation")) == 2


@pytest.mark.parametrize("inside", [True, False])
def test_split_folders_lie_around_the_pairs_or_inside(root, inside):
    for split, numbers in (("train", range(10)), ("val", range(20, 22)), ("test", range(30, 33))):
        places = (root / "in" / split, root / "out" / split) if inside else (root / split / "in", root / split / "out")
        write_pairs(*places, numbers)
    data = pairs(root, inputs="in", targets="out")
    assert [[n for n, _ in levels(data.rows(split))] for split in SPLITS] == [[*range(10)], [20, 21], [30, 31, 32]]


def test_rendered_white_balance_finds_its_truth_and_no_scene_is_in_two_splits(root):
    for n in range(20):
        write(root / "input" / f"Canon_{n:04}_F_AS.png", n)
        write(root / "input" / f"Canon_{n:04}_T_P.png", n)
        write(root / "groundtruth" / f"Canon_{n:04}_G_AS.png", 100 + n)
        write(root / "input" / f"{n}_D.JPG", 50 + n)
        write(root / "groundtruth" / f"{n}.JPG", 150 + n)
        write(root / "input" / f"Mobile_{n:05}.png", 30 + n)
        write(root / "groundtruth" / f"Mobile_{n:05}.png", 130 + n)
    data = pairs(root)
    parts = [levels(data.rows(split)) for split in SPLITS]
    assert all(truth == taken + 100 for taken, truth in chain(*parts))
    assert sum(map(len, parts)) == 80, "two inputs of a Set1 truth, one of the others"
    truths = [{truth for _, truth in part} for part in parts]
    assert sum(map(len, truths)) == 60 == len(set.union(*truths)), "a scene is in one split"


def test_one_folder_may_hold_inputs_and_white_balanced_truths(root):
    for n in range(10):
        for ending, value in (("D_AS", n), ("S_AS", n), ("G_AS", 100 + n)):
            write(root / "all" / f"8D5U{n}_{ending}.png", value)
    rows = pairs(root, inputs="all", targets="all").rows("train")
    assert len(rows) == 16 and not rows.skipped
    assert all(truth == taken + 100 for taken, truth in levels(rows))


def test_lists_of_names_are_splits(root):
    write_pairs(root / "Inputs_jpg", root / "Experts_C", range(20))
    (root / "test.txt").write_text("003\n007.jpg\n\nnobody\n")
    data = pairs(root, lists={"test": "test.txt"})
    assert levels(data.rows("test")) == [(3, 103), (7, 107)]
    others = levels(data.rows("train")) + levels(data.rows("validation"))
    assert sorted(n for n, _ in others) == [n for n in range(20) if n not in (3, 7)]
    (root / "test.txt").write_text("nobody\n")
    with pytest.raises(DataError, match=r"test\.txt' names none of the 20 pairs"):
        pairs(root, lists={"test": "test.txt"}).rows("test")
    with pytest.raises(DataError, match=r"gone\.txt' cannot be read"):
        pairs(root, lists={"test": "gone.txt"}).rows("train")
    (root / "test.txt").write_text("003\n")
    with pytest.raises(DataError, match=r"both name '.*003\.png'"):
        pairs(root, lists={"test": "test.txt", "validation": "test.txt"}).rows("train")


def test_a_list_may_begin_with_the_mark_that_windows_writes(root):
    write_pairs(root / "Inputs_jpg", root / "Experts_C", range(20))
    (root / "test.txt").write_bytes(b"\xef\xbb\xbf003.png\r\n007.png\r\n")
    assert levels(pairs(root, lists={"test": "test.txt"}).rows("test")) == [(3, 103), (7, 107)]


def test_a_list_takes_every_rendition_of_a_scene(root):
    for n in range(20):
        for style, value in (("F_AS", n), ("T_P", n), ("G_AS", 100 + n)):
            write(root / ("groundtruth" if style == "G_AS" else "input") / f"Canon_{n:04}_{style}.png", value)
    (root / "fold.txt").write_text("Canon_0003_F_AS.png\n")
    data = pairs(root, lists={"test": "fold.txt"})
    assert levels(data.rows("test")) == [(3, 103), (3, 103)]
    assert 103 not in [truth for _, truth in levels(data.rows("train"))]


def test_a_list_for_a_split_that_has_folders_is_refused(root):
    write_pairs(root / "our485" / "low", root / "our485" / "high", range(20))
    write_pairs(root / "eval15" / "low", root / "eval15" / "high", range(3))
    with pytest.raises(DataError, match=r"take `lists\.test` out"):
        pairs(root, lists={"test": "test.txt"}).rows("test")


@pytest.mark.parametrize("size", [None, 4])
def test_what_does_not_fit_is_named_once_and_left_out(root, size, caplog):
    write_pairs(root / "low", root / "high", range(20))
    write(root / "low" / "alone.png", 0)
    write(root / "high" / "widow.png", 0)
    write(root / "low" / "turned.png", 0, (8, 6))
    write(root / "high" / "turned.png", 0, (6, 8))
    write(root / "low" / "small.png", 0, (8, 6))
    write(root / "high" / "small.png", 0, (16, 12))
    write(root / "low" / "damaged.png", 0)
    (root / "high" / "damaged.png").write_text("no picture")
    (root / "keep.txt").write_text("000\n")
    (root / "choose.txt").write_text("001\n")
    data = pairs(root, size=size, lists={"test": "keep.txt", "validation": "choose.txt"})
    rows = data.rows("train")
    assert [n for n, _ in levels(rows)] == [*range(2, 20)]
    assert len(caplog.records) == 1 and len(rows.skipped) == 5
    for sentence in (
        r"alone.png' has no partner",
        r"widow.png' has no partner",
        r"low/turned.png' is 8x6 pixels but its truth '",
        r"high/turned.png' is 6x8; turn one",
        r"high/small.png' is 16x12; export both",
        r"high/damaged.png' is not a picture",
    ):
        assert caplog.text.count(sentence) == 1, sentence


def test_two_truths_of_one_name_are_no_riddle(root):
    write_pairs(root / "low", root / "high", range(10))
    write(root / "high" / "003.bmp", 250)
    rows = pairs(root).rows("train")
    assert any("has the name of" in sentence for sentence in rows.skipped)


def test_no_folders_no_partners_or_no_readable_pair_say_what_to_do(root):
    with pytest.raises(DataError, match="does not exist; set `root`"):
        pairs(root).rows("train")
    root.mkdir()
    with pytest.raises(DataError, match=r"Inputs_jpg/ with Experts_C/; our485/low/ with our485/high/.*`inputs`"):
        pairs(root).rows("train")
    with pytest.raises(DataError, match=r"looked for our485/low/ with our485/high/\)"):
        pairs(root, layout="lol").rows("train")
    write(root / "low" / "a.png", 0)
    write(root / "high" / "b.png", 0)
    with pytest.raises(DataError, match=r"no picture in .*low' has the name of one in"):
        pairs(root).rows("train")
    for n in range(10):
        write(root / "low" / f"{n}.png", 0)
        write(root / "high" / f"{n}.png", 0, (6, 8))
    with pytest.raises(DataError, match="no readable row"):
        pairs(root).rows("train")
    with pytest.raises(ValidationError, match="name both folders"):
        pairs(root, inputs="low")
    with pytest.raises(DataError, match="no split is named 'dev'"):
        pairs(root).rows("dev")


def test_only_test_folders_have_nothing_to_train_on(root):
    write_pairs(root / "eval15" / "low", root / "eval15" / "high", range(3))
    with pytest.raises(DataError, match="has pairs for test alone"):
        pairs(root, layout="lol").rows("train")
    assert len(pairs(root, layout="lol").rows("test")) == 3


def test_kept_rows_are_cropped_alike_and_fresh_when_files_change(root):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    for n in range(10):
        for folder in ("low", "high"):
            write(root / folder / f"{n}.png", 0)
            Image.fromarray(wide).save(root / folder / f"{n}.png")
    for row in pairs(root, size=4).rows("train"):
        assert np.array_equal(row["degraded"], row["image"]) and row["image"].shape == (4, 4, 3)
        assert row["image"][:, 1:3].min() > 190, "the middle third is what a square keeps"
    for n in range(10):
        write(root / "low" / f"{n}.png", 77, (24, 8))
        os.utime(root / "low" / f"{n}.png", (2_000_000_000, 2_000_000_000))
    assert {taken for taken, _ in levels(pairs(root, size=4).rows("train"))} == {77}


def test_limit_is_spread_and_rows_can_be_sent_to_workers(root):
    write_pairs(root / "low", root / "high", range(50))
    for size in (None, 4):
        rows = pairs(root, limit=5, size=size).rows("train")
        assert len(rows) == 5 and levels(pickle.loads(pickle.dumps(rows))) == levels(rows)
        assert levels(rows)[-1][0] - levels(rows)[0][0] > 30
