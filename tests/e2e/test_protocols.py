"""`cynosure eval RUN --protocol ...`: published protocols on data in the published layouts, end to end."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_runs import RECIPE, Project

from cynosure.cli.app import main
from cynosure.compat import import_timm

COLUMNS = {"oracle", "prior", "random", "none", "baseline"}
SIZE = (24, 32)
QUICK = "train.codes.steps=1", "train.prior.steps=1", "train.refit.steps=0", "train.prior.views=0"


def write_coco(root: Path) -> None:
    """Ground (10), a box (500) that differs from picture to picture, a crowd of boxes (9), void in the last column."""
    categories = [{"id": 7, "name": "ground", "isthing": 0}, {"id": 90, "name": "box", "isthing": 1}]
    for split, count in (("train2017", 12), ("val2017", 5)):
        annotations = []
        for i in range(count):
            ids = np.full(SIZE, 10)
            ids[8:16, 4 : 12 + i] = 500
            ids[:6, 20:30] = 9
            ids[:, 31] = 0
            name = f"{i:012d}"
            picture = np.stack([ids % 256, ids // 2, np.full(SIZE, 20 * i)], -1).astype(np.uint8)
            for folder, pixels, ending in ((split, picture, "jpg"), (f"panoptic_{split}", rgb(ids), "png")):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / folder / f"{name}.{ending}")
            infos = [(10, 7, 0), (500, 90, 0), (9, 90, 1)]
            segments = [{"id": s, "category_id": c, "iscrowd": crowd} for s, c, crowd in infos]
            annotations.append({"image_id": 1000 + i, "file_name": f"{name}.png", "segments_info": segments})
        images = [{"id": a["image_id"], "file_name": a["file_name"].replace("png", "jpg")} for a in annotations]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(document))


def rgb(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def write_nyu(root: Path, size: tuple[int, int] = (480, 640)) -> None:
    """Parquet with image and depth, two metres everywhere but for a border that evaluation crops away."""
    import datasets

    root.mkdir()
    depth = np.full(size, 2.0, dtype=np.float32)
    depth[:54] = 9.0
    for split, count in (("train", 4), ("validation", 2), ("test", 3)):
        pictures = [Image.fromarray(np.full((*size, 3), 40 * i, dtype=np.uint8)) for i in range(count)]
        columns = {"image": pictures, "depth": [depth] * count}
        features = datasets.Features(
            {"image": datasets.Image(), "depth": datasets.Array2D(shape=size, dtype="float32")}
        )
        datasets.Dataset.from_dict(columns, features=features).to_parquet(root / f"{split}-0.parquet")


def trained(project: Project, tasks: str, data: str) -> Path:
    """A run of one step, of the tiny recipe with other tasks and data."""
    start, end = RECIPE.index("data:"), RECIPE.index("model:")
    project.recipe.write_text(f"{RECIPE[:start]}data:\n  {data}\ntasks:\n  {tasks}\n{RECIPE[end:]}")
    project.train("run", *QUICK)
    return project.folder / "run"


def evaluated(run: Path, *arguments: str) -> dict[str, Any]:
    """The JSON of `cynosure eval`, run in this process."""
    file = run.parent / "metrics.json"
    with pytest.raises(SystemExit) as stopped:
        main(["eval", str(run), "--json", str(file), *arguments])
    assert not stopped.value.code
    return json.loads(file.read_text())


def refused(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> str:
    """What `cynosure eval` says when it refuses; one sentence."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["eval", str(run), *arguments])
    *progress, said = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2, said
    assert all(" left" in line for line in progress), "more than one sentence"
    return said


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("panoptic"))
    write_coco(project.folder / "coco")
    task = "panoptic: {data: coco, batch_size: 2, max_instances: 4, resize: uvim, augment: none}"
    trained(project, task, f"coco: {{name: coco_panoptic, root: {project.folder / 'coco'}}}")
    return project


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("colours"))
    data = "scenes: {name: scenes, size: [16, 20], train: 12, validation: 4, test: 7}"
    trained(project, "colorization: {data: scenes, batch_size: 2, augment: flip}", data)
    torch.manual_seed(0)
    network = import_timm().create_model("resnet10t", pretrained=False)
    save_file(network.state_dict(), project.folder / "net.safetensors")
    return project


def network_of(project: Project) -> list[str]:
    sets = {"network": project.folder / "net.safetensors", "model": "resnet10t", "subsets": 3, "subset_size": 4}
    return [word for name, value in {**sets, "size": 32}.items() for word in ("--set", f"{name}={value}")]


def test_coco_panoptic_measures_all_columns_and_saves_what_others_read(panoptic: Project) -> None:
    saved = panoptic.folder / "answers"
    report = evaluated(panoptic.folder / "run", "--protocol", "coco_panoptic", "--save", str(saved))
    assert report["protocol"] == {
        "name": "coco_panoptic",
        "min_fraction": 0.0,
        "merge_stuff": False,
        "format": "rgb",
    }
    assert report["settings"]["temperature"] == 0
    task = report["tasks"]["panoptic"]
    assert task["rows"] == 5 and set(task["metrics"]) == COLUMNS
    assert set(task["metrics"]["prior"]) >= {f"{m}{g}" for m in ("pq", "sq", "rq") for g in ("", "_things", "_stuff")}
    document = json.loads((saved / "panoptic.json").read_text())
    assert [a["image_id"] for a in document["annotations"]] == [1000, 1001, 1002, 1003, 1004]
    for annotation in document["annotations"]:
        pixels = np.asarray(Image.open(saved / "panoptic" / annotation["file_name"])).astype(int)
        assert pixels.shape == (*SIZE, 3), "answers have the pictures' own size"
        ids = pixels @ np.array([1, 256, 65536])
        listed = {s["id"]: s for s in annotation["segments_info"]}
        assert set(np.unique(ids)) - {0} == set(listed), "every id of the PNG is in the JSON, and the reverse"
        for number, segment in listed.items():
            assert segment["category_id"] in (7, 90) and segment["area"] == (ids == number).sum()


def test_the_official_answer_scores_one_although_it_says_nothing_of_crowds(panoptic: Project) -> None:
    """The baseline's pixels are replaced by the truth, resized as an answer would be: everything matches."""
    from cynosure.build import Session
    from cynosure.host import load_host
    from cynosure.run.loading import load
    from cynosure.run.protocols import protocols_of

    predictor = load(panoptic.folder / "run", host=load_host())
    session = Session.open(predictor.recipe, predictor.host)
    (rules,) = protocols_of("coco_panoptic", session, predictor.tasks, None).values()
    (name, options), *_ = rules.metrics().items()
    metric = session.host.components.build("metric", {"name": name, **options})
    for row in session.rows("panoptic", "test"):
        truth = rules.truth(row)
        assert (truth.values["crowd"] > 0).sum() == 60, "the dataset tells crowds from void"
        metric.update([rules.answer(truth, row)], [truth])
    assert float(metric.compute()["pq"]) == 1


def test_two_processes_measure_and_save_the_same(panoptic: Project) -> None:
    alone = evaluated(panoptic.folder / "run", "--protocol", "coco_panoptic", "--batch-size", "2")
    done = panoptic.command(
        *("eval", "run", "--protocol", "coco_panoptic", "--batch-size", "2"),
        *("--save", "both", "--json", "both.json"),
        processes=2,
    )
    assert done.returncode == 0, done.stderr
    both = json.loads((panoptic.folder / "both.json").read_text())
    for column, values in alone["tasks"]["panoptic"]["metrics"].items():
        assert both["tasks"]["panoptic"]["metrics"][column] == pytest.approx(values, rel=1e-5, nan_ok=True), column
    assert done.stdout.count("split test · protocol coco_panoptic") == 1, "only the first process reports"
    document = json.loads((panoptic.folder / "both" / "panoptic.json").read_text())
    assert [a["image_id"] for a in document["annotations"]] == [1000, 1001, 1002, 1003, 1004]
    assert len(list((panoptic.folder / "both" / "panoptic").iterdir())) == 5


def test_nyu_depth_crops_before_the_model_and_forgets_the_border(tmp_path: Path, capsys: Any) -> None:
    project = Project(tmp_path)
    write_nyu(tmp_path / "nyu")
    task = "depth: {data: nyu, batch_size: 2, augment: none}"
    run = trained(project, task, f"nyu: {{name: images, source: {tmp_path}/nyu}}")
    report = evaluated(run, "--protocol", "nyu_depth")
    task_report = report["tasks"]["depth"]
    assert task_report["rows"] == 3 and set(task_report["metrics"]) == COLUMNS
    baseline = task_report["metrics"]["baseline"]
    assert baseline["rmse"] == pytest.approx(0, abs=1e-5) and baseline["d1"] == 1, "nine metres lie outside the crop"
    shifted = evaluated(run, "--protocol", "nyu_depth", "--set", "crop=eigen")["tasks"]["depth"]["metrics"]["baseline"]
    assert shifted["rmse"] == pytest.approx(7 * (9 / 426) ** 0.5, rel=1e-4), "nine rows of it are seven metres off"
    said = refused(capsys, run, "--protocol", "coco_panoptic")
    assert said == "protocol coco_panoptic measures panoptic, but this run has depth"
    assert "did you mean 'crop'" in refused(capsys, run, "--protocol", "nyu_depth", "--set", "corp=eigen")
    assert "did you mean 'nyu_depth'" in refused(capsys, run, "--protocol", "nyu_depht")
    assert "--protocol" in refused(capsys, run, "--set", "crop=eigen")
    assert "--protocol" in refused(capsys, run, "--save", str(tmp_path / "answers"))


def test_frames_of_another_size_and_missing_columns_are_one_sentence(tmp_path: Path, capsys: Any) -> None:
    project = Project(tmp_path)
    run = trained(
        project,
        "depth: {data: scenes, batch_size: 2, augment: none}\n  panoptic: {data: scenes, batch_size: 2}",
        "scenes: {name: scenes, size: 16, train: 12, validation: 4, test: 4}",
    )
    assert "16 x 16 pixels" in refused(capsys, run, "--protocol", "nyu_depth")
    said = refused(capsys, run, "--protocol", "coco_panoptic")
    assert "needs the columns crowd, image_id, file_name, which dataset scenes lacks" in said
    said = refused(capsys, run, "--protocol", "nyu_depth", "--task", "panoptic")
    assert said == "protocol nyu_depth measures depth, not panoptic"


def test_colorization_fid_samples_and_names_its_numbers_by_the_network(colours: Project, capsys: Any) -> None:
    run, saved = colours.folder / "run", colours.folder / "pictures"
    network = network_of(colours)
    report = evaluated(run, "--protocol", "colorization_fid", *network, "--save", str(saved))
    assert report["settings"]["temperature"] == 1, "colours are sampled"
    task = report["tasks"]["colorization"]
    assert set(task["metrics"]) == COLUMNS
    for column, values in task["metrics"].items():
        assert {"fd_resnet10t", "kd_resnet10t", "kd_resnet10t_std", "psnr"} <= set(values), column
        assert not [name for name in values if "fid" in name], "only FID's own network gives FID"
        assert math.isfinite(values["fd_resnet10t"])
    assert {Image.open(file).size for file in saved.iterdir()} == {(32, 32)} and len(list(saved.iterdir())) == 7
    greedy = evaluated(run, "--protocol", "colorization_fid", *network, "--temperature", "0")
    assert greedy["settings"]["temperature"] == 0
    assert "Set `network`" in refused(capsys, run, "--protocol", "colorization_fid")


def test_a_task_brings_its_own_protocol(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """One file beside registry.yaml: a protocol for depth that measures the middle of the picture only."""
    project.plugin(
        "middle",
        """
from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Protocol
from cynosure.core.records import Prediction

class Middle(Protocol):
    class Config(PartConfig):
        margin: int = 4
    tasks = ("depth",)

    def cut(self, depth):
        m = self.config.margin
        return {"depth": depth[m:-m, m:-m]}

    def answer(self, prediction, row):
        return prediction.with_values(self.cut(self.task.restore(prediction, row["image"]).values["depth"]))

    def truth(self, row):
        return Prediction(self.task, self.cut(row["depth"]))

    def metrics(self):
        return {"depth_error": {"max_depth": 16.0}}

@hookimpl
def cynosure_register(register):
    register.protocol("middle", Middle)
""",
    )
    project.train("run", *QUICK)
    monkeypatch.chdir(project.folder)
    for command in (["plugins", "check", "middle"], ["eval", "run", "--protocol", "middle", "--set", "margin=6"]):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        said = capsys.readouterr()
        assert not stopped.value.code, said.out + said.err
    assert re.search(r"depth · 4 rows", said.out) and "colorization" not in said.out
