"""Pictures from folders, parquet files, shards and the hub become canonical rows; bad files are named and left out."""

import io
import json
import os
import pickle
import tarfile
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from cynosure.errors import DataError
from cynosure_plugins.datasets import rows as rows_module
from cynosure_plugins.datasets.images import Images

DATA = Path(os.environ.get("CYNOSURE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()


def images(source, **options) -> Images:
    return Images(Images.Config(source=str(source), **options))


def flat(value: int, size=(8, 6)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_folder(root: Path, count: int, start: int = 0) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        flat(i).save(root / f"{i:03}.png")
    return root


def write_parquet(path: Path, columns: dict, features: dict) -> Path:
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(str(path))
    return path


def write_tar(path: Path, values: range) -> None:
    with tarfile.open(path, "w") as tar:
        for i in values:
            caption = json.dumps({"caption": f"number {i}"}).encode()
            for ending, data in (("png", png(flat(i))), ("cls", str(i).encode()), ("json", caption)):
                member = tarfile.TarInfo(f"{i:04}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def values(rows) -> list[int]:
    return [int(row["image"][0, 0, 0]) for row in rows]


def test_a_flat_folder_is_split_at_random_without_overlap_and_always_alike(tmp_path):
    write_folder(tmp_path / "in", 40)
    data, again = images(tmp_path / "in"), images(tmp_path / "in")
    assert data.kind == "folder" and data.info.fields == ("image",)
    parts = [values(data.rows(split)) for split in SPLITS]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert sorted(chain(*parts)) == list(range(40))
    assert parts == [values(again.rows(split)) for split in SPLITS]
    row = data.rows("train")[0]
    assert row["image"].shape == (6, 8, 3) and row["image"].dtype == np.uint8


def test_class_folders_give_labels_with_names(tmp_path):
    write_folder(tmp_path / "in" / "cat", 10)
    write_folder(tmp_path / "in" / "dog", 10, start=100)
    data = images(tmp_path / "in")
    assert data.info.classes == (("cat", True), ("dog", True))
    assert all(row["label"] == int(row["image"][0, 0, 0] >= 100) for row in data.rows("train"))


def test_a_picture_named_like_a_split_takes_nothing_away(tmp_path):
    write_folder(tmp_path / "in", 20)
    flat(99).save(tmp_path / "in" / "my_test.png")
    data = images(tmp_path / "in")
    assert any(99 in values(data.rows(split)) for split in SPLITS)
    assert len(data.rows("train")) == 17


def test_split_folders_are_splits_and_the_official_validation_set_is_the_test(tmp_path):
    write_folder(tmp_path / "in" / "train", 20)
    write_folder(tmp_path / "in" / "val", 3, start=100)
    data = images(tmp_path / "in")
    assert values(data.rows("test")) == [100, 101, 102]
    assert len(data.rows("validation")) == 2 and max(values(data.rows("validation"))) < 100


def test_metadata_gives_captions_and_pairs(tmp_path):
    write_folder(tmp_path / "in", 12)
    write_folder(tmp_path / "in", 12, start=100)
    with (tmp_path / "in" / "metadata.jsonl").open("w") as file:
        for i in range(12):
            entry = {"file_name": f"{100 + i}.png", "low_file_name": f"{i:03}.png", "caption": f"picture {i}"}
            file.write(json.dumps(entry) + "\n")
    data = images(tmp_path / "in")
    assert data.info.fields == ("image", "caption", "degraded")
    for row in data.rows("train"):
        number = int(row["degraded"][0, 0, 0])
        assert int(row["image"][0, 0, 0]) == 100 + number and row["caption"] == f"picture {number}"


def test_bad_files_are_named_once_and_the_good_go_on(tmp_path, caplog):
    folder = write_folder(tmp_path / "in", 30)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = png(Image.fromarray(noise))
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    for size in (None, 4):
        caplog.clear()
        data = images(folder, size=size)
        parts = [data.rows(split) for split in SPLITS]
        assert sorted(chain(*map(values, parts))) == list(range(30))
        skipped = " ".join(chain(*(part.skipped for part in parts)))
        assert all(name in skipped and name in caplog.text for name in ("text.png", "cut.png", "empty.png"))
        assert len(caplog.records) == sum(bool(part.skipped) for part in parts), "one warning a split"


def test_a_file_that_goes_bad_later_gives_way_to_the_next(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(rows_module, "CHECK_UP_TO", 0)
    folder = write_folder(tmp_path / "in", 20)
    (folder / "003.png").write_text("no picture")
    data = images(folder, splits={"train": "train", "validation": "train[:10]", "test": "train[10:]"})
    assert values(data.rows("validation")) == [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]
    assert values(data.rows("validation"))[3] == 4
    assert caplog.text.count("003.png") == 1


def test_only_bad_files_or_none_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"in' holds no picture"):
        images(tmp_path / "in")
    for i in range(10):
        (tmp_path / "in" / f"{i}.png").write_text("no picture")
    with pytest.raises(DataError, match=r"no readable row: .*\.png' is not a picture"):
        images(tmp_path / "in").rows("train")


def test_kept_rows_are_cropped_to_the_centre_and_fresh_when_files_change(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    for i in range(10):
        Image.fromarray(wide).save(folder / f"{i}.png")
    row = images(folder, size=4).rows("train")[0]
    assert row["image"].shape == (4, 4, 3)
    assert row["image"][:, 1:3].min() > 190, "the middle third is what a square keeps"
    assert images(folder, size=(4, 12)).rows("train")[0]["image"][:, 0].max() < 10, "the whole picture fits"
    for i in range(10):
        flat(77, (24, 8)).save(folder / f"{i}.png")
        os.utime(folder / f"{i}.png", (2_000_000_000, 2_000_000_000))
    assert values(images(folder, size=4).rows("train")) == [77] * 8


def test_parquet_with_captions_labels_and_16_bit_depth(tmp_path):
    depth = np.array([[0, 500], [1500, 65535]], np.uint16)
    path = write_parquet(
        tmp_path / "a.parquet",
        {
            "image": [flat(i) for i in range(12)],
            "text": [f"picture {i}" for i in range(12)],
            "label": [i % 2 for i in range(12)],
            "depth_map": [Image.fromarray(depth)] * 12,
        },
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["even", "odd"]),
            "depth_map": datasets.Image(),
        },
    )
    data = images(path)
    assert data.kind == "parquet" and set(data.info.fields) == {"image", "caption", "label", "depth"}
    assert data.info.classes == (("even", True), ("odd", True))
    for row in data.rows("train"):
        number = int(row["image"][0, 0, 0])
        assert row["caption"] == f"picture {number}" and row["label"] == number % 2
        assert row["depth"].dtype == np.float32
        assert np.allclose(row["depth"], [[0, 0.5], [1.5, 65.535]]), "millimetres become metres, 0 stays missing"
    half = images(path, depth_scale=0.5).rows("train")[0]["depth"]
    assert half[0, 1] == 250


def test_float_depth_is_in_metres_and_what_is_not_finite_is_missing(tmp_path):
    depth = [[1.25, float("nan")], [float("inf"), -1.0]]
    features = {"image": datasets.Image(), "depth": datasets.Array2D((2, 2), "float32")}
    path = write_parquet(
        tmp_path / "a.parquet", {"image": [flat(i) for i in range(10)], "depth": [depth] * 10}, features
    )
    assert images(path).rows("test")[0]["depth"].tolist() == [[1.25, 0], [0, 0]]
    kept = images(path, size=4).rows("test")[0]["depth"]
    assert set(np.unique(kept)) == {0, 1.25}, "resizing must not mix missing depth with metres"


def test_columns_are_mapped_and_wrong_ones_named(tmp_path):
    features = {"photo": datasets.Image(), "title": datasets.Value("string")}
    columns = {"photo": [flat(i) for i in range(10)], "title": ["a"] * 10}
    path = write_parquet(tmp_path / "a.parquet", columns, features)
    assert images(path, columns={"image": "photo", "caption": "title"}).rows("train")[0]["caption"] == "a"
    with pytest.raises(DataError, match=r"columns\.image.*photo, title"):
        images(path).rows("train")
    with pytest.raises(DataError, match="no column 'titel' for caption, did you mean 'title'"):
        images(path, columns={"image": "photo", "caption": "titel"}).rows("train")
    with pytest.raises(ValidationError):
        images(path, columns={"picture": "photo"})


def test_slices_of_one_split(tmp_path):
    write_folder(tmp_path / "in", 20)
    splits = {"train": "train[:50%]", "validation": "train[50%:75%]", "test": "train[75%:]"}
    data = images(tmp_path / "in", splits=splits)
    assert [values(data.rows(split)) for split in SPLITS] == [[*range(10)], [*range(10, 15)], [*range(15, 20)]]
    with pytest.raises(DataError, match=r"tarin.*did you mean 'train'"):
        images(tmp_path / "in", splits={"train": "tarin"}).rows("train")
    with pytest.raises(DataError, match="slices"):
        images(tmp_path / "in", splits=splits, streaming=True).rows("train")


def test_limit_is_spread_over_the_source(tmp_path):
    write_folder(tmp_path / "in", 50)
    data = images(tmp_path / "in", limit=5, splits={"train": "train", "test": "train", "validation": "train"})
    assert values(data.rows("train")) == [0, 12, 24, 36, 49]


def test_shards_by_number_of_rows_and_in_passing(tmp_path):
    write_tar(tmp_path / "s-0.tar", range(0, 60))
    write_tar(tmp_path / "s-1.tar", range(60, 120))
    options = {"columns": {"caption": "json.caption"}}
    counted = images(tmp_path / "s-*.tar", **options)
    assert counted.kind == "webdataset" and len(counted.rows("train")) == 96
    row = counted.rows("train")[5]
    assert row["label"] == row["image"][0, 0, 0] and row["caption"] == f"number {row['label']}"
    streamed = images(tmp_path / "s-*.tar", streaming=True, **options)
    parts = [values(streamed.rows(split)) for split in SPLITS]
    assert sorted(chain(*parts)) == list(range(120)), "every row is in exactly one split"
    assert all(len(part) >= 3 for part in parts)
    assert parts[0] != sorted(parts[0]), "training rows are shuffled"


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_a_stream_and_a_resumed_stream_goes_on_where_it_stopped(tmp_path, world):
    for shard in range(2):
        write_tar(tmp_path / f"s-{shard}.tar", range(shard * 60, shard * 60 + 60))
    rows = images(tmp_path / "s-*.tar", streaming=True).rows("train")
    everything = sorted(values(rows))
    first = [_take(rows.stream(rank, world, seed=3), 20) for rank in range(world)]
    assert len(set(chain(*first))) == 20 * world, "no row goes to two ranks in one epoch"
    long = _take(rows.stream(1, world, seed=3), 150)
    assert set(long) <= set(everything) and long.count(long[0]) >= 2, "a stream goes on epoch after epoch"
    assert _take(rows.stream(1, world, seed=3, skip=97), 53) == long[97:]
    assert _take(rows.stream(1, world, seed=4), 150) != long


def _take(rows, number: int) -> list[int]:
    return [int(next(rows)["image"][0, 0, 0]) for _ in range(number)]


def test_bad_rows_of_a_stream_are_named_and_left_out(tmp_path, caplog):
    folder = write_folder(tmp_path / "in", 20)
    (folder / "007.png").write_text("no picture")
    splits = {"train": "train", "validation": "train", "test": "train"}
    rows = images(folder, streaming=True, splits=splits).rows("test")
    assert values(rows) == [i for i in range(20) if i != 7]
    assert caplog.text.count("007.png") == len(rows.skipped) == 1
    for file in folder.iterdir():
        file.write_text("no picture")
    rows = images(folder, streaming=True, splits=splits).rows("train")
    with pytest.raises(DataError, match="no readable row"):
        next(rows.stream())


def test_hub_names_reach_the_library_and_its_refusal_is_one_sentence(monkeypatch):
    asked = []

    def load_dataset(path, **options):
        asked.append((path, options["name"], options["streaming"]))
        if path == "nobody/nothing":
            raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub (LocalEntryNotFoundError)\nmore lines")
        table = datasets.Dataset.from_dict(
            {"image": [flat(i) for i in range(20)]}, features=datasets.Features({"image": datasets.Image()})
        )
        return datasets.DatasetDict({"train": table, "test": table.select(range(5))})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = images("somebody/pictures", subset="small")
    assert data.kind == "hub" and values(data.rows("test")) == [0, 1, 2, 3, 4] and len(data.rows("train")) == 18
    assert asked == [("somebody/pictures", "small", False)]
    with pytest.raises(DataError, match=r"^'nobody/nothing' is no folder or file here.* hub did not give it: [^\n]*$"):
        images("nobody/nothing").rows("train")


@pytest.mark.parametrize("source", ["./gone", "/gone/photos", "gone/*.parquet", "a/b/c"])
def test_paths_that_do_not_exist_never_ask_the_hub(source):
    with pytest.raises(DataError, match="is no folder of pictures"):
        images(source)


def test_relative_sources_start_at_the_working_folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "photos", 10)
    monkeypatch.chdir(tmp_path)
    assert len(images("photos").rows("train")) == 8


def test_too_few_rows_to_hold_out_says_what_to_do(tmp_path):
    write_folder(tmp_path / "in", 2)
    with pytest.raises(DataError, match=r"too few.*`splits`"):
        images(tmp_path / "in").rows("train")


@pytest.mark.parametrize("options", [{}, {"size": 4}, {"streaming": True}])
def test_rows_can_be_sent_to_worker_processes(tmp_path, options):
    write_folder(tmp_path / "in", 20)
    rows = images(tmp_path / "in", **options).rows("train")
    sent = pickle.dumps(rows)
    assert values(pickle.loads(sent)) == values(rows)


@pytest.mark.skipif(not (DATA / "cifar10").is_dir(), reason="CIFAR-10 is not at $CYNOSURE_DATA")
def test_cifar10_photographs_counted_and_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.2)
    whole = pq.ParquetFile(DATA / "cifar10" / "train.parquet")
    pq.write_table(whole.read_row_group(0), tmp_path / "some.parquet")
    streamed = images(tmp_path / "some.parquet", streaming=True)
    for row in streamed.rows("train"):
        assert row["caption"].endswith(streamed.info.classes[row["label"]][0])
    data = images(tmp_path / "some.parquet", size=32)
    assert data.info.classes == streamed.info.classes and len(data.info.classes) == 10
    assert [len(data.rows(split)) for split in SPLITS] == [400, 50, 50]
    assert data.rows("train")[7]["image"].shape == (32, 32, 3)


@pytest.mark.parametrize("skip", range(1, 9))
def test_a_resumed_stream_agrees_even_where_an_epoch_ends_with_a_bad_row(skip):
    """A run that was killed must see the rows it would have seen, whatever rows cannot be read."""
    from itertools import islice

    from cynosure_plugins.datasets.streams import StreamRows

    def read(raw, position):
        if raw["n"] in (1, 3):
            raise DataError(f"row {raw['n']} is bad")
        return {"n": raw["n"]}

    def rows():
        return StreamRows("rows", [{"n": n} for n in range(4)], read)

    whole = [row["n"] for row in islice(rows().stream(), 16)]
    assert [row["n"] for row in islice(rows().stream(skip=skip), 16 - skip)] == whole[skip:]


def test_a_number_of_rows_can_be_held_out(tmp_path):
    write_folder(tmp_path / "in", 20)
    data = images(tmp_path / "in", holdout=4)
    assert [len(data.rows(split)) for split in ("train", "validation", "test")] == [12, 4, 4]
    assert [data.count(split) for split in ("train", "validation", "test")] == [12, 4, 4]
    with pytest.raises(DataError, match=r"holdout: 0\.01"):
        images(tmp_path / "in", holdout=4, streaming=True).rows("train")


@pytest.mark.parametrize("holdout", [0, 0.5, 1.5, True, "many"])
def test_a_hold_out_is_a_share_or_a_number_of_rows(tmp_path, holdout):
    with pytest.raises(ValueError, match="a share of the rows, above 0 and below 0"):
        images(tmp_path, holdout=holdout)


@pytest.mark.parametrize("side", [57, 58, 225, 232, 457])
def test_any_picture_is_cut_to_any_size(tmp_path, side):
    """Rounding once put the cut a hair outside of the picture, which Pillow refuses."""
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(3):
        flat(i, (side, side)).save(folder / f"{i}.png")
    for size in (28, 56, 100, 224):
        assert images(folder, size=size, holdout=1).rows("train")[0]["image"].shape == (size, size, 3)
