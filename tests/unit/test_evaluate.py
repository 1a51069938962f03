"""Evaluation measures every real row once, with codes from every source, and reports plain data."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from small_run import PAINTER, make_model, make_predictor, open_session

from cynosure.cli.evaluate import metric_options
from cynosure.core.records import Codes, CodeSpec, SampleSettings, Segment
from cynosure.data.files import write_png
from cynosure.errors import CynosureError, DataError
from cynosure.host import load_host
from cynosure.registry import PluginEntry, load_registry
from cynosure.run.codestatistics import CodeStatistics, codebook_use
from cynosure.run.evaluate import evaluate
from cynosure.run.report import Report, TaskReport


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return open_session(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(session):
    return make_model(session)


@pytest.fixture(scope="module")
def report(session, model):
    return evaluate(model, session, batch_size=4)


def without_speed(report):
    return {name: replace(task, images_per_second=None) for name, task in report.tasks.items()}


def test_every_source_and_the_baseline_are_measured(report):
    for name, task in report.tasks.items():
        assert set(task.metrics) == {"oracle", "prior", "random", "none", "baseline"}, name
        assert task.rows == 10
        assert task.images_per_second > 0
    assert set(report.tasks["depth"].metrics["prior"]) >= {"rmse", "d1"}
    assert report.tasks["depth"].metrics["oracle"] != report.tasks["depth"].metrics["none"], "codes must matter here"


def test_rows_that_pad_a_batch_do_not_count(session, model, report):
    """Ten rows in batches of four leave two rows of padding; in batches of five there is none."""
    for size in (5, 10):
        other = evaluate(model, session, batch_size=size)
        for name, task in report.tasks.items():
            for source, values in task.metrics.items():
                assert other.tasks[name].metrics[source] == pytest.approx(values, rel=1e-4, abs=1e-4), (name, source)
            assert other.tasks[name].codes["oracle"] == pytest.approx(task.codes["oracle"])
            assert other.tasks[name].codes["prior"] == pytest.approx(task.codes["prior"], rel=1e-4)


def test_limit_and_tasks_choose_what_is_measured(session, model):
    found = evaluate(model, session, tasks=["depth"], limit=3, sources=["oracle"], baseline=False)
    assert list(found.tasks) == ["depth"]
    assert found.tasks["depth"].rows == 3
    assert list(found.tasks["depth"].metrics) == ["oracle"]


def test_further_metrics_join_those_of_the_task(session, model):
    more = {"ssim": {}}
    found = evaluate(model, session, ["colorization"], limit=3, sources=["oracle"], baseline=False, metrics=more)
    assert {"ssim", "psnr"} <= set(found.tasks["colorization"].metrics["oracle"])
    with pytest.raises(CynosureError, match="did you mean 'ssim'"):
        evaluate(model, session, ["colorization"], limit=3, metrics={"sim": {}})


def test_a_metric_measures_the_columns_that_it_is_told_to(session, model):
    more = {"ssim": {"columns": ["oracle", "baseline"]}, "delta_e2000": {}}
    found = evaluate(model, session, ["colorization"], limit=3, metrics=more).tasks["colorization"].metrics
    assert {column for column, values in found.items() if "ssim" in values} == {"oracle", "baseline"}
    assert {column for column, values in found.items() if "delta_e2000" in values} == set(found)


def test_a_metric_is_measured_where_answers_have_what_it_compares(session, model):
    """Asked of a whole run, a metric of pictures must not end the evaluation at the first task that has none."""
    found = evaluate(model, session, limit=3, sources=["none"], baseline=False, metrics={"ssim": {}}).tasks
    assert "ssim" in found["colorization"].metrics["none"] and "ssim" not in found["depth"].metrics["none"]
    with pytest.raises(CynosureError, match="metric ssim compares what no answer here has"):
        evaluate(model, session, ["depth"], limit=3, sources=["none"], baseline=False, metrics={"ssim": {}})


def test_what_is_asked_of_a_metric_keeps_what_the_task_asked(tmp_path):
    """Samples of task generation are other pictures than the true one: their PSNR would mean nothing."""
    prior = "model.prior={name: gpt, dim: 16, depth: 1, heads: 2, mlp_dim: 32}"
    tasks = "tasks={depth: null, colorization: null, generation: {data: scenes}}"
    session = open_session(tmp_path, tasks, *PAINTER, prior)
    found = evaluate(make_model(session), session, limit=3, metrics={"psnr": {}}).tasks["generation"].metrics
    assert {column for column, values in found.items() if "psnr" in values} == {"oracle", "none", "baseline"}


def test_the_cost_of_codes_is_theirs_alone_and_the_same_again(tmp_path):
    """Neither a text's cost nor smoothing is in it, and the mask of `masked` goes by the seed."""
    prior = "model.prior={name: masked, dim: 16, depth: 1, heads: 2, mlp_dim: 32, label_smoothing: 0.4}"
    session = open_session(tmp_path, prior)
    model = make_model(session)
    nats = [evaluate(model, session, ["depth"], limit=4).tasks["depth"].codes["prior"] for _ in range(2)]
    assert nats[0] == nats[1]
    model.prior.config = model.prior.config.model_copy(update={"label_smoothing": 0.0})
    assert evaluate(model, session, ["depth"], limit=4).tasks["depth"].codes["prior"] == nats[0]
    real = model.prior.loss
    model.prior.loss = lambda *arguments: {**real(*arguments), "text": torch.tensor(5.0)}
    assert evaluate(model, session, ["depth"], limit=4).tasks["depth"].codes["prior"] == nats[0]


def test_rows_without_answers_are_compared_with_nothing(tmp_path, caplog):
    """Zero-DCE learns from dark pictures alone: measured against those, the best answer would be none at all."""
    for i in range(6):
        write_png(tmp_path / "dark" / f"{i}.png", np.full((20, 20, 3), 10 * i, np.uint8))
    session = open_session(
        tmp_path,
        f"data={{scenes: null, dark: {{name: images, source: {tmp_path / 'dark'}, columns: {{degraded: image}}}}}}",
        "tasks={depth: null, colorization: null, enhancement: {data: dark, reference: zero}}",
        "model.tokenizer=null",
        "model.prior=null",
        "model.base={name: zero_dce}",
    )
    found = evaluate(make_model(session), session, split="train").tasks["enhancement"]
    assert found.rows > 0 and not any(found.metrics.values()) and "rows have no answers" in caplog.text


def test_the_speed_stands_where_it_was_measured(session, model, report):
    def column(found):
        return next(cells for label, cells in found.tasks["depth"].lines() if label == "pictures per second").keys()

    assert list(column(report)) == ["prior"]
    assert list(column(evaluate(model, session, ["depth"], limit=3, sources=["oracle", "none"]))) == ["none"]


@pytest.mark.parametrize("text", ["={}", "ssim=3"])
def test_a_metric_that_is_no_name_with_options_is_refused(text):
    with pytest.raises(CynosureError, match="must look like NAME or NAME="):
        metric_options([text])


def test_metrics_have_options_in_yaml():
    assert metric_options(["ssim", "feature_distance={network: a.pth, subsets: 0}"]) == {
        "ssim": {},
        "feature_distance": {"network": "a.pth", "subsets": 0},
    }


def test_the_seed_decides_the_sampled_codes(session, model):
    def measure(seed):
        settings = SampleSettings(temperature=1.0)
        found = evaluate(model, session, ["depth"], settings=settings, sources=["prior", "random"], seed=seed)
        return without_speed(found)

    assert measure(1) == measure(1)
    assert measure(1)["depth"].metrics["prior"] != measure(2)["depth"].metrics["prior"]
    assert measure(1)["depth"].metrics["random"] != measure(2)["depth"].metrics["random"]


def test_a_prior_that_knows_nothing_pays_the_logarithm_of_the_vocabulary(session):
    model = make_model(session)
    torch.nn.init.zeros_(model.prior.head.weight)
    torch.nn.init.zeros_(model.prior.head.bias)
    torch.nn.init.zeros_(model.prior.task_biases["depth"])
    found = evaluate(model, session, ["depth"], baseline=False).tasks["depth"]
    assert found.codes["prior"]["nats per code"] == pytest.approx(math.log(8), rel=1e-4)
    assert found.codes["prior"]["perplexity"] == 1, "temperature 0 always takes the first of equal codes"
    assert found.codes["prior"]["distinct"] == pytest.approx(0.1), "one code for ten rows"


def test_code_statistics_count_each_segment_by_itself():
    spec = CodeSpec((Segment("scene", 1, 1, 4), Segment("image", 2, 2, 2)))
    oracle = Codes(torch.tensor([[[3, 0], [0, 1], [1, 0]], [[2, 0], [0, 1], [1, 0]]]), spec)
    prior = Codes(torch.tensor([[[3, 0], [0, 0], [0, 0]], [[3, 0], [0, 0], [0, 0]]]), spec)
    statistics = CodeStatistics(spec, world=1)
    statistics.add(oracle, prior, 2.0)
    statistics.add(oracle, prior, 4.0)
    found = statistics.report(torch.device("cpu"))
    assert found["oracle"] == pytest.approx(
        {"used/scene": 0.5, "perplexity/scene": 2, "used/image": 1, "perplexity/image": 2, "distinct": 0.5}
    )
    assert found["prior"]["nats per code"] == pytest.approx(3.0)
    assert found["prior"]["agreement"] == pytest.approx((4 / 6 + 3 / 6) / 2)


def test_a_model_without_prior_or_codes_is_measured_without_them(tmp_path):
    no_prior = open_session(tmp_path, "model.prior=null", "tasks.colorization=null")
    found = evaluate(make_model(no_prior), no_prior, limit=2).tasks["depth"]
    assert set(found.metrics) == {"oracle", "random", "none", "baseline"}
    no_codes = open_session(tmp_path, "model.prior=null", "model.tokenizer=null", "tasks.colorization=null")
    found = evaluate(make_model(no_codes), no_codes, limit=2).tasks["depth"]
    assert set(found.metrics) == {"none", "baseline"}
    assert found.codes == {}


def test_unknown_tasks_and_splits_say_what_there_is(session, model):
    with pytest.raises(CynosureError, match="did you mean 'depth'"):
        evaluate(model, session, tasks=["dept"])
    with pytest.raises(DataError, match="split"):
        evaluate(model, session, split="tset")


def test_plugins_see_every_evaluation(tmp_path):
    file = tmp_path / "watch.py"
    file.write_text(
        "from cynosure import hookimpl\nseen = []\n@hookimpl\ndef cynosure_evaluated(run, task, metrics, samples):\n"
        "    seen.append((run, task.name, metrics, samples))\n"
    )
    registry = load_registry()
    registry = replace(registry, plugins={**registry.plugins, "watch": PluginEntry(path=file)})
    session = open_session(tmp_path, host=load_host(registry, strict=True))
    predictor = make_predictor(session)
    found = evaluate(predictor, session, limit=3)
    seen = next(p for p in session.host.plugins if p.name == "watch").module.seen
    assert [name for _, name, _, _ in seen] == ["depth", "colorization"]
    run, name, metrics, samples = seen[0]
    assert run is predictor
    assert metrics == found.tasks[name].metrics
    assert [sample.task.name for sample in samples] == ["depth"] * 3


def test_reports_are_plain_data():
    task = TaskReport(
        rows=3,
        metrics={"prior": {"pq": 0.5, "pq/ball": 0.25}, "baseline": {"pq": float("nan")}},
        codes={"oracle": {"used": 0.75}},
        images_per_second=12.0,
    )
    report = Report("test", {"temperature": 0.0}, {"panoptic": task})
    assert report.flat() == {
        "panoptic/prior/pq": 0.5,
        "panoptic/prior/pq/ball": 0.25,
        "panoptic/oracle/codes/used": 0.75,
        "panoptic/images_per_second": 12.0,
    }, "flat must leave out what is not finite"
    read = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert read["tasks"]["panoptic"]["metrics"]["baseline"]["pq"] is None
    assert read["tasks"]["panoptic"]["metrics"]["prior"]["pq/ball"] == 0.25


def test_the_table_sets_sources_side_by_side(report):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.table())
    lines = console.export_text().splitlines()
    header = next(line for line in lines if "oracle" in line)
    assert header.split()[-6:] == ["oracle", "prior", "random", "no", "codes", "baseline"]
    rmse = next(line for line in lines if line.strip().startswith("rmse"))
    values = [report.tasks["depth"].metrics[s]["rmse"] for s in ("oracle", "prior", "random", "none", "baseline")]
    assert [float(cell) for cell in rmse.split()[1:]] == pytest.approx(values, abs=0.06)


def test_the_codebook_is_counted_over_all_tasks_together() -> None:
    """Each task may use half of a shared codebook; what matters is whether a code is dead for all of them."""
    spec = CodeSpec((Segment("guide", 2, 1, 4),))
    statistics = [CodeStatistics(spec, 1), CodeStatistics(spec, 1)]
    statistics[0].add(Codes(torch.tensor([[[0], [1]]]), spec), None, 0.0)
    statistics[1].add(Codes(torch.tensor([[[1], [2]]]), spec), None, 0.0)
    found = codebook_use(statistics, torch.device("cpu"))
    assert found["oracle"]["used"] == 0.75 and found["oracle"]["dead"] == 1


def test_a_rank_without_rows_knows_the_same_sources_as_the_others() -> None:
    """Sums over ranks are taken source by source; a rank that leaves one out makes the others wait for ever."""
    spec = CodeSpec((Segment("guide", 2, 1, 4),))
    assert set(CodeStatistics(spec, 1).counts) == {"oracle", "prior"} == set(CodeStatistics(spec, 1).seen)
    assert CodeStatistics(spec, 1).report(torch.device("cpu")) == {}
    assert codebook_use([CodeStatistics(spec, 1)], torch.device("cpu")) == {}
