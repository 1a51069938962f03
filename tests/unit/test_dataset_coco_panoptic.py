"""The COCO panoptic layout is read exactly: ids, classes, crowds, splits, and files that are missing or damaged."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cynosure.build import Session
from cynosure.config.recipe import load_recipe
from cynosure.errors import DataError
from cynosure.host import load_host
from cynosure_plugins.datasets import coco_panoptic
from cynosure_plugins.datasets.coco_panoptic import CocoPanoptic

CATEGORIES = [{"id": 7, "name": "cat", "isthing": 1}, {"id": 200, "name": "grass", "isthing": 0}]
DATA = Path(os.environ.get("CYNOSURE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "cache"))


def write_split(root: Path, name: str, count: int, annotations: str = ".", category: int = 7) -> None:
    """`count` pictures: grass (id 70000) above, a cat (id 300) below, a crowd at the left, an unlisted pixel."""
    (root / name).mkdir(parents=True)
    pngs = root / f"panoptic_{name}"
    pngs.mkdir()
    listed = []
    for i in range(count):
        ids = np.full((6, 8), 70000)
        ids[3:] = 300
        ids[:, 0] = 5
        ids[0, 7] = 123456
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(colours).save(pngs / f"{i:03}.png")
        Image.fromarray(np.full((6, 8, 3), i, np.uint8)).save(root / name / f"{i:03}.jpg")
        segments = [
            {"id": 70000, "category_id": 200, "iscrowd": 0},
            {"id": 5, "category_id": 7, "iscrowd": 1},
            {"id": 300, "category_id": category, "iscrowd": 0},
        ]
        listed.append({"image_id": i, "file_name": f"{i:03}.png", "segments_info": segments})
    images = [{"id": i, "file_name": f"{i:03}.jpg"} for i in range(count)]
    (root / annotations).mkdir(exist_ok=True)
    document = {"images": images, "annotations": listed, "categories": CATEGORIES}
    (root / annotations / f"panoptic_{name}.json").write_text(json.dumps(document))


def dataset(root: Path, **options) -> CocoPanoptic:
    return CocoPanoptic(CocoPanoptic.Config(root=str(root), **options))


def test_ids_become_class_and_instance_and_the_rest_is_void(tmp_path):
    write_split(tmp_path, "train", 12)
    data = dataset(tmp_path)
    assert data.info.classes == (("cat", True), ("grass", False)) and data.info.category_ids == (7, 200)
    row = data.rows("train")[0]
    panoptic = row["panoptic"]
    assert row["image"].shape == (6, 8, 3) and panoptic.shape == (6, 8, 2) and panoptic.dtype == np.int32
    assert panoptic[1, 3].tolist() == [2, 1], "grass is the second category and the first segment"
    assert panoptic[4, 3].tolist() == [1, 3], "the cat is the first category and the third segment"
    assert not panoptic[:, 0].any(), "crowds are void"
    assert not panoptic[0, 7].any(), "pixels of no listed segment are void"


def test_kept_rows_have_the_size_and_unmixed_labels_and_survive_a_restart(tmp_path):
    write_split(tmp_path, "train", 12)
    first = dataset(tmp_path, size=(4, 5)).rows("train")
    again = dataset(tmp_path, size=(4, 5)).rows("train")
    assert len(first) == len(again) == 10
    for a, b in zip(first, again, strict=True):
        assert a["image"].shape == (4, 5, 3) and a["panoptic"].shape == (4, 5, 2) and a["panoptic"].dtype == np.int32
        assert (a["image"] == b["image"]).all() and (a["panoptic"] == b["panoptic"]).all()
        assert {tuple(p) for p in a["panoptic"].reshape(-1, 2).tolist()} <= {(0, 0), (1, 3), (2, 1)}


def test_a_changed_picture_is_decoded_again(tmp_path):
    write_split(tmp_path, "train", 12)
    dataset(tmp_path, size=4).rows("train")
    for file in (tmp_path / "train").iterdir():
        Image.new("RGB", (8, 6), (250, 250, 250)).save(file)
    assert dataset(tmp_path, size=4).rows("train")[0]["image"].min() > 240


@pytest.mark.parametrize(
    ("train", "val", "annotations"), [("train2017", "val2017", "annotations"), ("train", "val", ".")]
)
def test_published_layouts_are_found_and_the_official_validation_set_is_the_test(tmp_path, train, val, annotations):
    write_split(tmp_path, train, 20, annotations)
    write_split(tmp_path, val, 3, annotations)
    data = dataset(tmp_path)
    values = {s: [int(row["image"][0, 0, 0]) for row in data.rows(s)] for s in ("train", "validation", "test")}
    assert len(values["test"]) == 3
    assert len(values["validation"]) == 2 and len(values["train"]) == 18, "a tenth of training is held out"
    assert not set(values["train"]) & set(values["validation"])


def test_splits_of_a_recipe_arrive_as_they_are_written(tmp_path):
    """The key `json` of a split is an alias in the config, which once went into the recipe by its other name."""
    write_split(tmp_path, "a", 3)
    part = "{images: a, panoptic: panoptic_a, json: panoptic_a.json}"
    (tmp_path / "run.yaml").write_text(
        f"base: unified/tiny\ndata: {{coco: {{name: coco_panoptic, root: '{tmp_path}', splits: {{test: {part}}}}}}}\n"
        "tasks: {panoptic: {data: coco}, depth: null, colorization: null}\n"
    )
    host = load_host()
    session = Session.open(load_recipe(tmp_path / "run.yaml", host=host), host)
    assert len(session.rows("panoptic", "test")) == 3


def test_splits_can_be_named(tmp_path):
    write_split(tmp_path, "a", 3)
    part = {"images": "a", "panoptic": "panoptic_a", "json": "panoptic_a.json"}
    data = dataset(tmp_path, splits={"test": part})
    assert len(data.rows("test")) == 3
    with pytest.raises(DataError, match=r"no train data.*splits\.train"):
        data.rows("train")


def test_unknown_category_names_the_file_the_id_and_the_known_ones(tmp_path):
    write_split(tmp_path, "train", 12, category=99)
    with pytest.raises(DataError, match=r"panoptic_train\.json.*category 99.*\(7, 200\)"):
        dataset(tmp_path).rows("train")


def test_the_json_of_instances_is_told_from_that_of_panoptic_segments(tmp_path):
    write_split(tmp_path, "train", 12)
    (tmp_path / "panoptic_train.json").write_text(
        '{"categories": [{"id": 7, "name": "cat"}], "annotations": [{"image_id": 1}]}'
    )
    with pytest.raises(DataError, match="without file_name, segments_info"):
        dataset(tmp_path).rows("train")


def test_missing_and_damaged_files_are_named_and_left_out(tmp_path, caplog):
    write_split(tmp_path, "train", 20)
    write_split(tmp_path, "val", 5)
    (tmp_path / "val" / "001.jpg").unlink()
    (tmp_path / "panoptic_val" / "002.png").unlink()
    (tmp_path / "val" / "003.jpg").write_bytes(b"not a picture")
    for size in (None, 4):
        caplog.clear()
        rows = dataset(tmp_path, size=size).rows("test")
        assert [len(rows), len(rows.skipped)] == [2, 3]
        assert len(caplog.records) == 1, "one warning lists them all"
        assert all(name in caplog.text for name in ("001.jpg", "002.png", "003.jpg"))
        assert len(list(rows)) == 2


def test_no_readable_row_is_an_error(tmp_path):
    write_split(tmp_path, "train", 12)
    for file in (tmp_path / "train").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no readable row.*\.jpg' does not exist"):
        dataset(tmp_path).rows("train")


def test_a_root_that_is_not_there_or_of_another_layout_says_so(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        dataset(tmp_path / "gone").rows("train")
    with pytest.raises(DataError, match="not in the COCO panoptic layout"):
        dataset(tmp_path).rows("train")
    write_split(tmp_path, "train", 12)
    with pytest.raises(DataError, match="did you mean 'validation'"):
        dataset(tmp_path).rows("validatoin")


@pytest.mark.parametrize("size", [None, 4])
def test_rows_can_be_sent_to_worker_processes(tmp_path, size):
    write_split(tmp_path, "train", 12)
    rows = dataset(tmp_path, size=size).rows("train")
    sent = pickle.dumps(rows)
    assert all((a["panoptic"] == b["panoptic"]).all() for a, b in zip(pickle.loads(sent), rows, strict=True))


def test_limit_keeps_so_many_rows(tmp_path):
    write_split(tmp_path, "train", 20)
    assert len(dataset(tmp_path, limit=5).rows("train")) == 5


@pytest.mark.skipif(not (DATA / "camvid").is_dir(), reason="CamVid is not at $CYNOSURE_DATA")
def test_camvid_street_scenes():
    data = dataset(DATA / "camvid", size=(48, 64), limit=8)
    assert len(data.info.classes) == 11 and ("car", True) in data.info.classes
    for split in ("train", "validation", "test"):
        rows = data.rows(split)
        assert len(rows) == 8 and not rows.skipped
        labels = np.stack([row["panoptic"][..., 0] for row in rows])
        assert (labels > 0).mean() > 0.8 and labels.max() <= 11, f"most {split} pixels have a class"


def test_a_number_of_rows_can_be_held_out(tmp_path):
    write_split(tmp_path, "train", 20)
    write_split(tmp_path, "val", 3)
    data = dataset(tmp_path, holdout=12)
    assert [len(data.rows(split)) for split in ("train", "validation", "test")] == [8, 12, 3]
    assert [data.count(split) for split in ("train", "validation", "test")] == [8, 12, 3]


def test_the_json_is_read_once_for_classes_and_all_splits(tmp_path, monkeypatch):
    """COCO's takes ten seconds."""
    write_split(tmp_path, "train", 20)
    files = []
    monkeypatch.setattr(coco_panoptic, "_read_json", lambda file: files.append(file) or json.loads(file.read_text()))
    data = dataset(tmp_path)
    assert data.info.classes
    assert sum(len(data.rows(split)) + data.count(split) for split in ("train", "validation", "test")) == 40
    assert files == [tmp_path / "panoptic_train.json"]


def test_declared_coco_categories_need_no_file_and_must_be_those_of_the_files(tmp_path):
    data = dataset(tmp_path / "absent", categories="coco")
    assert len(data.info.classes) == 133 and data.info.classes[0] == ("person", True)
    assert data.info.category_ids[-1] == 200 and data.info.classes[-1] == ("rug-merged", False)
    write_split(tmp_path, "train", 12)
    with pytest.raises(DataError, match=r"other categories than COCO 2017.*`categories: coco`"):
        dataset(tmp_path, categories="coco").rows("train")
