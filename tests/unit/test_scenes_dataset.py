"""Scenes on disk: what is read back is what was rendered, caches are whole or rebuilt, rows are cheap."""

import errno
import pickle
from pathlib import Path

import numpy as np
import pytest

from cynosure.data.scenes import SceneRows, build, build_scenes, decode_row, render_scenes
from cynosure.errors import DataError

COUNT, SIZE = 20, (16, 24)


def make(folder: Path, **options):
    return build_scenes(3, COUNT, SIZE, start=5, cache_dir=folder, processes=1, **options)


def assert_rendered(rows, indices):
    scenes = render_scenes(3, np.asarray(indices), SIZE)
    for place, row in enumerate(rows):
        for name in ("image", "panoptic", "depth", "degraded"):
            assert row[name].dtype == scenes[name].dtype and np.array_equal(row[name], scenes[name][place]), name
        assert row["caption"] == scenes["caption"][place] and row["objects"] == scenes["objects"][place]
        assert row["index"] == indices[place]


def test_rows_are_the_rendered_scenes(tmp_path):
    dataset = make(tmp_path)
    rows = SceneRows(dataset, SIZE)
    assert len(rows) == len(dataset) == COUNT
    assert_rendered([rows[row] for row in range(COUNT)], range(5, 25))
    assert_rendered([decode_row(dataset[row], SIZE) for row in range(3)], range(5, 8))
    assert rows[-1]["index"] == 24
    with pytest.raises(IndexError):
        rows[COUNT]


def test_rows_of_a_selection_follow_it(tmp_path):
    rows = SceneRows(make(tmp_path).select([7, 2, 11]), SIZE)
    assert_rendered([rows[row] for row in range(3)], [12, 7, 16])


def test_rows_travel_to_other_processes_as_file_names(tmp_path):
    rows = SceneRows(make(tmp_path), SIZE, ("image", "depth"))
    parcel = pickle.dumps(rows)
    assert len(parcel) < COUNT * SIZE[0] * SIZE[1] * 3, "the pixels themselves were pickled"
    copy = pickle.loads(parcel)
    assert set(copy[4]) == {"image", "depth"} and np.array_equal(copy[4]["image"], rows[4]["image"])


def test_an_unknown_field_is_named_with_a_suggestion(tmp_path):
    with pytest.raises(DataError, match="did you mean 'depth'"):
        SceneRows(make(tmp_path), SIZE, ("dept",))


def test_the_second_build_renders_nothing(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(build, "write_part", lambda *_: pytest.fail("rendered although cached"))
    assert len(make(tmp_path)) == COUNT
    assert [path.name[0] for path in tmp_path.iterdir()] == ["v"], "scratch files were left behind"


def test_another_size_seed_or_range_is_another_dataset(tmp_path):
    make(tmp_path)
    build_scenes(4, COUNT, SIZE, start=5, cache_dir=tmp_path, processes=1)
    build_scenes(3, COUNT, 16, start=5, cache_dir=tmp_path, processes=1)
    build_scenes(3, COUNT, SIZE, start=6, cache_dir=tmp_path, processes=1)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["truncate", "delete part", "delete manifest", "garble manifest", "garble part"])
def test_a_damaged_cache_is_rendered_again(tmp_path, damage):
    make(tmp_path)
    folder = next(tmp_path.iterdir())
    part, manifest = folder / "part-000.arrow", folder / "manifest.json"
    if damage == "truncate":
        part.write_bytes(part.read_bytes()[:-1000])
    elif damage == "garble part":
        part.write_bytes(b"\x01" * part.stat().st_size)
    elif damage == "delete part":
        part.unlink()
    elif damage == "delete manifest":
        manifest.unlink()
    else:
        manifest.write_text("[]")
    rows = SceneRows(make(tmp_path), SIZE)
    assert_rendered([rows[row] for row in range(COUNT)], range(5, 25))


def test_a_build_that_dies_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def die(seed, start, count, size, path, report):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "write_part", die)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(make(tmp_path)) == COUNT


def test_many_processes_write_what_one_does_and_report_progress(tmp_path):
    heard = []
    many = build_scenes(1, 512, 16, cache_dir=tmp_path, processes=2, progress=lambda *now: heard.append(now))
    assert len(list(next(tmp_path.iterdir()).glob("*.arrow"))) == 2
    done = [count for count, _ in heard]
    assert heard[-1] == (512, 512) and done == sorted(done)
    assert heard[0] == (0, 512), "a bar that starts after the first scenes shows an absurd rate"
    rows, scenes = SceneRows(many, 16), render_scenes(1, np.arange(512), 16)
    for row in (0, 255, 256, 511):
        assert rows[row]["index"] == row and np.array_equal(rows[row]["image"], scenes["image"][row])


def test_a_failing_process_is_reported_not_waited_for(tmp_path):
    nowhere = [tmp_path / "missing" / f"part-{number}.arrow" for number in range(2)]
    with pytest.raises(DataError, match="rendering scenes failed"):
        build._run_workers(0, [(0, 4), (4, 4)], (16, 16), nowhere, lambda done: None)


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path))
    build_scenes(0, 2, 16, processes=1)
    assert (tmp_path / "scenes").is_dir()


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "write_part", fill)
    with pytest.raises(DataError, match=r"No space left on device\): set CYNOSURE_CACHE"):
        make(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "start"), [(0, 0), (4, -1)])
def test_impossible_ranges_say_what_to_do(tmp_path, count, start):
    with pytest.raises(DataError, match="ask for at least one"):
        build_scenes(0, count, 16, start=start, cache_dir=tmp_path)


def test_reports_of_workers_are_never_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers report into one pipe; with unbuffered output a line written in two pieces would break the build."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    seen: list[int] = []
    build_scenes(3, 512, 16, cache_dir=tmp_path, processes=4, progress=lambda done, total: seen.append(done))
    assert seen[-1] == 512 and seen == sorted(seen)
