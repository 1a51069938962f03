"""Training on data of every kind: none, little, streams, kept codes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import INTERRUPTS, Messages, Project, resumed_from, same, weights

from cynosure.errors import DataError, TrainingError
from cynosure.train.interrupt import Stopped

# --- data


def rows(code: str) -> str:
    """A plugin with a dataset `toy` whose training rows are what `code` says."""
    return f"""
import numpy as np
from cynosure import hookimpl
from cynosure.core.contracts import Dataset, DatasetInfo, PartConfig

def row(i):
    rng = np.random.default_rng(i)
    depth = rng.uniform(1, 9, (16, 16)).astype(np.float32)
    return {{"image": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), "depth": depth}}

class Stream:
    def __iter__(self):
        return (row(i) for i in range(7))

class Toy(Dataset):
    class Config(PartConfig):
        pass
    def __init__(self, config):
        pass
    info = DatasetInfo(name="toy", fields=("image", "depth"))
    def rows(self, split):
        return {code}

@hookimpl
def cynosure_register(register):
    register.dataset("toy", Toy)
"""


def test_an_empty_dataset_is_one_sentence(project: Project) -> None:
    project.plugin("toy", rows("[]"))
    with pytest.raises(DataError, match="task depth has nothing to learn from: dataset scenes holds no training row"):
        project.train("run", "data.scenes={name: toy}")


def test_a_batch_larger_than_the_data_repeats_rows_and_says_so_once(project: Project) -> None:
    messages = Messages()
    project.train("run", "tasks.depth.batch_size=20", progress=messages)
    assert [m for m in messages.said if "repeats rows" in m] == [
        "task depth: batch_size 20 repeats rows, there are only 12."
    ]


STREAM = ("data.scenes={name: toy}", "train.stages=[codes,prior]")


def test_a_stream_trains_and_resumes_bit_for_bit(project: Project) -> None:
    project.plugin("toy", rows("Stream()"))
    messages = Messages()
    project.train("whole", *STREAM, progress=messages)
    assert any("streams: the oracle writes its codes in passing" in m for m in messages.said)
    project.plugin("kills", INTERRUPTS)
    with pytest.raises(Stopped):
        project.train("parts", *STREAM)
    (project.folder / "kills.py").unlink()
    project.plugin("toy", rows("Stream()"))
    project.train("parts", *STREAM, "train.workers=2", resume=True)
    assert same(weights(project.folder / "parts"), weights(project.folder / "whole"))


def test_streamed_pictures_train_and_resume_bit_for_bit(project: Project) -> None:
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (project.folder / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(project.folder / f"pictures/{i}.png")
    data = "data.scenes={name: images, source: %s, streaming: true, buffer: 3, size: 16, holdout: 0.2}"
    sets = (data % (project.folder / "pictures"), "train.stages=[codes]", "tasks.depth=null", "train.codes.ema=0")
    project.train("whole", *sets)
    shutil.copytree(project.folder / "whole", project.folder / "parts")
    (project.folder / "parts/model.safetensors").unlink()
    for later in ("0-codes-00000004", "0-codes-00000005"):
        shutil.rmtree(project.folder / "parts/checkpoints" / later)
    project.train("parts", *sets, "train.workers=1", resume=True)
    assert same(weights(project.folder / "parts"), weights(project.folder / "whole")), "a worker reads other rows"


def test_refit_on_a_stream_is_refused_at_the_start(project: Project) -> None:
    project.plugin("toy", rows("Stream()"))
    with pytest.raises(TrainingError, match="task depth streams them"):
        project.train("run", "data.scenes={name: toy}")


def test_refit_without_kept_codes_is_refused_at_the_start(project: Project) -> None:
    with pytest.raises(TrainingError, match=r"set train.prior.views to 1 or more"):
        project.train("run", "train.prior.views=0")


def test_mixing_by_size_needs_sizes(project: Project) -> None:
    project.plugin("toy", rows("Stream()"))
    with pytest.raises(TrainingError, match=r"set mixing.by to weight"):
        project.train("run", *STREAM, "mixing.by=proportional")


def test_a_cache_cut_short_is_made_anew(project: Project, finished_run: Path) -> None:
    run = resumed_from(finished_run, "0-codes-00000005", project)
    kept = {}
    for cache in (run / "cache").iterdir():
        kept[cache] = cache.read_bytes()
        cache.write_bytes(kept[cache][: len(kept[cache]) // 2])
    project.train(run, resume=True)
    assert same(weights(run), weights(finished_run))
    assert all(cache.read_bytes() == content for cache, content in kept.items())
