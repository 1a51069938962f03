"""Training from recipe to model: what a run leaves behind, what each stage and step does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import CODES_ONLY, Project, log, same, weights

import cynosure
from cynosure.errors import CynosureError, TrainingError
from cynosure.train import checkpoint as files
from cynosure.train.loop import Run

SGD = """
import torch
from cynosure import hookimpl

@hookimpl
def cynosure_build_optimizer(run):
    if run.settings.optimizer == "sgd":
        return torch.optim.SGD([p for p in run.model.parameters() if p.requires_grad], lr=run.settings.lr)
"""

NO_CODES = ("model.prior=null", "model.tokenizer=null", "train.stages=[codes]", "tasks.colorization=null")


# --- what a run leaves behind


def test_a_run_leaves_its_model_recipe_log_and_checkpoints(finished_run: Path) -> None:
    model = cynosure.load(finished_run)
    assert sorted(model.tasks) == ["colorization", "depth"]
    lines = log(finished_run)
    assert [(line["stage"], line["step"]) for line in lines] == [
        (stage, step) for stage, steps in (("codes", (3, 5)), ("prior", (3, 5)), ("refit", (3, 4))) for step in steps
    ]
    assert all(line["depth/loss"] > 0 and line["gradient_norm"] > 0 for line in lines)
    assert not list(finished_run.rglob("*.part"))


def test_the_same_run_twice_gives_the_same_model(finished_run: Path, project: Project) -> None:
    project.train("again")
    assert same(weights(finished_run), weights(project.folder / "again"))
    assert log(finished_run) == log(project.folder / "again")


def test_the_recipe_of_a_run_trains_it_again(finished_run: Path, project: Project) -> None:
    shutil.copy(finished_run / "recipe.yaml", project.recipe)
    project.train("again")
    assert same(weights(finished_run), weights(project.folder / "again"))


def test_worker_processes_change_nothing(finished_run: Path, project: Project) -> None:
    project.train("run", "train.workers=2")
    assert same(weights(finished_run), weights(project.folder / "run"))


def test_only_the_newest_checkpoints_stay(project: Project) -> None:
    project.train("run", "train.keep=2", *CODES_ONLY)
    assert sorted(p.name for p in (project.folder / "run/checkpoints").iterdir()) == [
        "0-codes-00000004",
        "0-codes-00000005",
    ]


# --- stages


def part(run: Path, checkpoint: str, name: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in weights(run / "checkpoints" / checkpoint).items() if k.startswith(name)}


@pytest.mark.parametrize(
    ("before", "after", "learns"),
    [("0-codes-00000005", "1-prior-00000005", "prior."), ("1-prior-00000005", "2-refit-00000004", "base.")],
)
def test_a_stage_changes_its_part_only(finished_run: Path, before: str, after: str, learns: str) -> None:
    """Buffers count too: the codebook's totals and the running statistics must stand still."""
    for name in ("base.", "tokenizer.", "prior."):
        unchanged = same(part(finished_run, before, name), part(finished_run, after, name))
        assert unchanged == (name != learns), f"{name} in the stage between {before} and {after}"


def test_stage_codes_moves_the_codebook(finished_run: Path) -> None:
    early, late = (part(finished_run, c, "tokenizer.quantizer") for c in ("0-codes-00000002", "0-codes-00000005"))
    assert not torch.equal(early["tokenizer.quantizer.sums"], late["tokenizer.quantizer.sums"])
    assert int(late["tokenizer.quantizer.step"]) == 5, "the codebook learns once an optimizer step"


def test_the_prior_starts_from_the_base(project: Project) -> None:
    """Steps too small to move anything show the start."""
    project.train("run", "train.stages=[codes,prior]", "train.prior.lr=1e-30", "train.prior.weight_decay=0")
    final = weights(project.folder / "run")
    learnt = {k.removeprefix("base."): v for k, v in final.items() if k.startswith("base.trunk.")}
    assert learnt and all(torch.equal(final[f"prior.encoder.{k}"], v) for k, v in learnt.items())


def test_without_warm_start_the_prior_has_an_encoder_of_its_own(project: Project) -> None:
    project.train(
        "run",
        "train.stages=[codes,prior]",
        "train.prior.steps=1",
        "train.prior.lr=1e-30",
        "train.prior.warm_start=false",
    )
    final = weights(project.folder / "run")
    name = "trunk.patches.weight"
    assert not torch.equal(final[f"prior.encoder.{name}"], final[f"base.{name}"])


def test_a_stage_of_no_steps_is_passed_over(project: Project) -> None:
    project.train("run", "train.prior.steps=0")
    assert [line["stage"] for line in log(project.folder / "run")] == ["codes", "codes", "refit", "refit"]


def test_a_run_of_no_steps_gives_the_untrained_model(project: Project) -> None:
    run = project.train("run", "train.codes.steps=0", "train.prior.steps=0", "train.refit.steps=0")
    assert same(weights(project.folder / "run"), run.model.state_dict())
    cynosure.load(project.folder / "run")


def test_refit_can_leave_tasks_out(project: Project) -> None:
    project.train("run", "train.codes.steps=1", "train.prior.steps=1", "train.refit.tasks=[depth]", "train.log_every=1")
    line = log(project.folder / "run")[-1]
    assert line["stage"] == "refit" and "depth/loss" in line and "colorization/loss" not in line


def test_a_model_without_codes_trains(project: Project) -> None:
    project.train("run", *NO_CODES)
    assert not any(k.startswith(("tokenizer", "prior")) for k in weights(project.folder / "run"))


# --- how steps are made


@pytest.mark.parametrize(("task", "other"), [("colorization", "depth"), ("depth", "colorization")])
def test_accumulation_equals_the_large_batch(project: Project, task: str, other: str) -> None:
    sgd = ("train.codes.optimizer=sgd", "train.codes.ema=0", "train.codes.clip=0", "train.codes.lr=0.1")
    project.plugin("sgd", SGD)
    one = ("model.prior=null", "model.tokenizer=null", "train.stages=[codes]", f"tasks.{other}=null")
    project.train("small", *one, *sgd, "train.codes.accumulate=4", f"tasks.{task}.batch_size=2")
    project.train("large", *one, *sgd, "train.codes.accumulate=1", f"tasks.{task}.batch_size=8")
    small, large = weights(project.folder / "small"), weights(project.folder / "large")
    assert all(torch.allclose(small[k], large[k], atol=1e-6) for k in small)


def test_a_global_batch_equals_the_large_batch_codebook_included(project: Project) -> None:
    """Through warm-up, k-means and decay: a step's micro-batches are decided and counted together."""
    project.plugin("sgd", SGD)
    sets = (
        "model.prior=null",
        "train.stages=[codes]",
        "tasks.depth=null",
        "model.code_dropout=0",
        "model.tokenizer.norm=standardize",  # running statistics of features are those of micro-batches
        "train.codes={optimizer: sgd, ema: 0, clip: 0, lr: 0.1, accumulate: 1, global_batch: 8}",
    )
    small = project.train("small", *sets, "tasks.colorization.batch_size=2")
    project.train("large", *sets, "tasks.colorization.batch_size=8")
    assert small.accumulate == 4
    one, other = weights(project.folder / "small"), weights(project.folder / "large")
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-5, msg=f"{name} differs")


def test_clipping_bounds_the_step(project: Project) -> None:
    project.plugin("sgd", SGD)
    one = (
        "train.codes.optimizer=sgd",
        "train.codes.ema=0",
        "train.codes.steps=1",
        "train.codes.lr=1",
        "train.codes.warmup=0",
    )
    start = project.train("start", *NO_CODES, "train.codes.steps=0").model.state_dict()
    moved = {}
    for clip in (0, 0.01):
        project.train(f"clip{clip}", *NO_CODES, *one, f"train.codes.clip={clip}")
        final = weights(project.folder / f"clip{clip}")
        moved[clip] = float(sum((final[k] - start[k]).square().sum() for k in start) ** 0.5)
        norm = log(project.folder / f"clip{clip}")[-1]["gradient_norm"]
    assert norm > 0.02, "this test needs a gradient worth clipping"
    assert moved[0] == pytest.approx(norm, rel=1e-3), "clip: 0 must not clip"
    assert moved[0.01] == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_trains_and_codebooks_stay_float32(project: Project) -> None:
    project.train("run", "train.precision=bf16")
    final = weights(project.folder / "run")
    assert all(v.isfinite().all() and v.dtype != torch.bfloat16 for v in final.values())
    project.train("plain", "train.precision=no")
    assert not same(final, weights(project.folder / "plain")), "bf16 made no difference"


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works here")
def test_fp16_without_a_gpu_is_one_sentence(project: Project) -> None:
    with pytest.raises(TrainingError, match="set it to bf16 or no"):
        project.train("run", "train.precision=fp16")


def test_a_wrong_name_in_a_later_stage_is_found_before_training(project: Project) -> None:
    with pytest.raises(TrainingError, match=r"train.prior.lr_scale: .*'prior.encodr', did you mean 'prior.encoder'"):
        project.train("run", "train.prior.lr_scale={prior.encodr: 0.1}")
    assert not (project.folder / "run" / "log.jsonl").exists()


def test_an_unknown_optimizer_is_named(project: Project) -> None:
    with pytest.raises(TrainingError, match=r"train.codes.optimizer: .*'adamv'.* did you mean 'adamw'"):
        project.train("run", "train.codes.optimizer=adamv")


def test_a_hook_can_change_the_training_step(project: Project) -> None:
    project.plugin("twice", """
from dataclasses import replace
from cynosure import hookimpl

@hookimpl
def cynosure_training_step(run, batch):
    output = run.forward(batch)
    return replace(output, loss=2 * output.loss, logs={"doubled": 2.0})
""")  # fmt: skip
    project.train("run", *CODES_ONLY)
    line = log(project.folder / "run")[-1]
    assert line["depth/doubled"] == 2 and "depth/depth" not in line


def test_transforms_of_plugins_reach_training(project: Project) -> None:
    project.plugin("black", """
from dataclasses import replace
from cynosure import hookimpl

@hookimpl
def cynosure_transforms(task, split):
    if (task.name, split) == ("depth", "train"):
        return lambda example, rng: replace(example, inputs={"image": 0 * example.inputs["image"]})

@hookimpl
def cynosure_training_step(run, batch):
    assert (float(batch.inputs["image"].abs().max()) == 0) == (batch.task == "depth")
""")  # fmt: skip
    project.train("run", *CODES_ONLY)


# --- averaged weights


def test_the_model_of_a_checkpoint_has_the_averaged_weights(finished_run: Path) -> None:
    checkpoint = finished_run / "checkpoints/0-codes-00000004"
    trained, _ = files.read_tensors(checkpoint / files.WEIGHTS)
    averaged = weights(checkpoint)
    assert any(not torch.equal(trained[k], averaged[k]) for k in trained)
    assert all(k.startswith(("base.", "tokenizer.")) for k in trained)


def test_evaluation_in_training_sees_the_averaged_weights(project: Project, finished_run: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def evaluate(run: Run) -> dict[str, float]:
        if run.stage == "codes":
            seen[run.step] = {k: v.clone() for k, v in run.model.state_dict().items()}
        return {"eval/answer": 42.0}

    project.train("run", "train.eval_every=2", evaluate=evaluate)
    assert sorted(seen) == [2, 4]
    assert same(seen[4], weights(finished_run / "checkpoints/0-codes-00000004"))
    assert same(weights(project.folder / "run"), weights(finished_run)), "evaluating changed the training"
    assert sum("eval/answer" in line for line in log(project.folder / "run")) == 6


def test_evaluation_is_off_by_default(project: Project) -> None:
    project.train("run", *CODES_ONLY, evaluate=lambda run: pytest.fail("evaluated"))


# --- trackers


def test_tensorboard_has_every_stage(project: Project) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    project.train("run", "train.trackers=[tensorboard]")
    events = accumulator.EventAccumulator(str(project.folder / "run/cynosure")).Reload()
    assert {"codes/depth/loss", "prior/depth/nll", "refit/gradient_norm"} <= set(events.Tags()["scalars"])
    steps = [e.step for stage in ("codes", "prior", "refit") for e in events.Scalars(f"{stage}/lr")]
    assert steps == [3, 5, 8, 10, 13, 14], "steps must go on from stage to stage"


@pytest.mark.parametrize(
    ("tracker", "said"),
    [("tensorbord", "did you mean 'tensorboard'"), ("comet_ml", "comet_ml is not installed; pip install")],
)
def test_a_tracker_that_is_not_there_is_one_sentence(project: Project, tracker: str, said: str) -> None:
    if tracker == "comet_ml" and cynosure_has(tracker):
        pytest.skip("comet_ml is installed")
    with pytest.raises(TrainingError, match=said):
        project.train("run", f"train.trackers=[{tracker}]")


def cynosure_has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def test_a_log_that_cannot_be_written_is_one_sentence(project: Project) -> None:
    (project.folder / "run/log.jsonl").mkdir(parents=True)
    with pytest.raises(CynosureError, match=r"could not write .*log.jsonl"):
        project.train("run")


def test_the_log_is_valid_json(finished_run: Path) -> None:
    for line in (finished_run / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["seconds"] >= 0
