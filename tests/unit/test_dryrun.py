"""The dry run: numbers that are known otherwise, and everything that would stop the real run, in one go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from small_run import make_model, open_session

from cynosure.build import build_datasets, build_model, complete
from cynosure.cli.app import main
from cynosure.cli.planned import text
from cynosure.config.recipe import load_recipe
from cynosure.core.contracts import PartConfig, Quantizer
from cynosure.core.records import Batch, Quantized
from cynosure.data.loading import TaskData
from cynosure.errors import DataError, TrainingError
from cynosure.host import Host, load_host
from cynosure.run.costs import Kept, Shadow
from cynosure.run.dryrun import DryRun, dry_run
from cynosure.train.checkpoint import write_tensors

PUBLISHED = {"panoptic": 223_593_984, "depth": 232_249_600, "colorization": 132_701_184}
"""Parameters of stage I, summed over the arrays of the published models."""
LABEL_STEM_BIAS = 768
"""Published panoptic embeds classes and instances by two layers; here one convolution does, with one bias for both."""


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


@pytest.fixture(scope="module")
def paper(host: Host, tmp_path_factory: pytest.TempPathFactory) -> DryRun:
    """Depth at the published size, planned where its data is not."""
    folder = tmp_path_factory.mktemp("nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return dry_run(load_recipe("depth/paper", host=host), host, folder / "run")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_published_sizes(host: Host, task: str) -> None:
    recipe = load_recipe(f"{task}/paper", host=host)
    recipe = complete(recipe, {"coco": build_datasets(recipe, host)["coco"]} if task == "panoptic" else {}, host)
    with init_empty_weights():
        model = build_model(recipe, host)
    sizes = {}
    for stage in ("codes", "prior"):
        model.set_stage(stage)
        sizes[stage] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    merged = LABEL_STEM_BIAS if task == "panoptic" else 0
    assert sizes == {"codes": PUBLISHED[task] - merged, "prior": 715_729_921}


def test_the_parts_add_up(paper: DryRun) -> None:
    codes, prior = paper.stages
    assert (codes.learning, prior.learning) == (PUBLISHED["depth"], 715_729_921)
    assert sum(part.parameters for part in paper.parts) == codes.learning + prior.learning
    codebook = next(part for part in paper.parts if part.name == "tokenizer.quantizer")
    assert codebook.parameters == 0 and codebook.buffers == 4096 * 768 + 4096 + 1
    assert paper.code_bits == 256 * 12


@pytest.mark.parametrize(
    ("task", "codes", "prior"),
    [
        ("panoptic", (111_515, 4e-4, 4e-5), (44_606, 1e-3, 1e-6)),
        ("depth", (9_294, 1e-3, 1e-5), (4_647, 1e-3, 1e-6)),
        ("colorization", (124_714, 4e-4, 4e-5), (124_714, 1e-3, 1e-6)),
    ],
)
def test_the_published_settings(host: Host, task: str, codes: Any, prior: Any) -> None:
    recipe = load_recipe(f"{task}/paper", host=host)
    train = recipe.train
    for settings, wanted, batch, clip in zip(
        (train.codes, train.prior), (codes, prior), (1024, 512), (1.0, 0.0), strict=True
    ):
        assert (settings.steps, settings.lr, settings.weight_decay) == wanted
        assert (settings.optimizer, settings.betas, settings.warmup) == ("adafactor", (0.9, 0.95), 4000)
        assert (settings.clip, settings.final_lr, settings.ema, settings.global_batch) == (clip, 0.0, 0.0, batch)
    assert train.prior.lr_scale == {"prior.encoder": 0.1} and train.prior.views == 0 and not train.prior.warm_start
    assert recipe.model.code_dropout == 1.0 and recipe.eval.sampling.temperature == 0
    assert recipe.tasks[task].options["resize"] == "uvim" and recipe.tasks[task].options["augment"] == "inception"


def test_the_schedule_of_the_published_depth(paper: DryRun) -> None:
    for plan, batch, peak in zip(paper.stages, (1024, 512), (1e-3, 1e-3), strict=True):
        assert plan.examples == batch
        assert plan.rates[0] == (0, 0.0) and (4000, peak) in plan.rates and plan.rates[-1][1] < 1e-6


def test_operations_are_those_of_a_count_by_hand(paper: DryRun) -> None:
    """Depth, stage I: 18 ViT-B blocks on 1024 tokens, stem and head of 256 classes; a multiply-add is two."""
    d, tokens, pixels = 768, 1024, 16 * 16
    block = 3 * (2 * 12 * d * d * tokens) + 3.5 * (4 * tokens * tokens * d)  # attention computes its scores twice
    label = 2 * tokens * 256 * pixels * d
    image = 2 * tokens * 3 * pixels * d
    bottleneck = 3 * 2 * (2 * 256 * d * d) + 2 * 256 * 4096 * d
    by_hand = 18 * block + (2 + 3) * label + 2 * 2 * image + bottleneck  # inputs need no gradient
    plan = paper.stages[0]
    assert plan.flops is not None and plan.flops == pytest.approx(1024 * by_hand, rel=1e-3)


def test_the_optimizer_state_is_half_a_momentum_and_a_little(paper: DryRun) -> None:
    for plan in paper.stages:
        assert plan.memory is not None
        assert plan.memory["gradients"] == 4 * plan.learning
        assert 2.0 < plan.memory["optimizer"] / plan.learning < 2.1, "bfloat16 momentum, factored second moments"


def test_absent_data_is_noted_and_epochs_are_unknown(paper: DryRun) -> None:
    assert len(paper.notes) == 1 and paper.notes[0].startswith("data nyu: ")
    assert all(set(plan.epochs.values()) == {None} for plan in paper.stages)


def test_a_task_that_needs_its_dataset_says_which_is_absent(host: Host, tmp_path: Path) -> None:
    recipe = load_recipe("panoptic/paper", ["data.coco.categories=null"], host)
    with pytest.raises(DataError, match=r"(?s)data coco: the folder 'data/coco' does not.*panoptic has no classes"):
        dry_run(recipe, host, tmp_path / "run")


# --- against the real thing, small


def batch_of(session: Any, model: Any, size: int) -> Batch:
    return TaskData(model.tasks["depth"], session.rows("depth", "train"), size, seed=0).batch(0, 0, 1)


@pytest.mark.parametrize("stage", ["codes", "prior"])
def test_what_waits_for_the_backward_pass_is_what_autograd_keeps(tmp_path: Path, stage: Any) -> None:
    session = open_session(tmp_path, "model.base={name: vit, dim: 16, depth: 3, heads: 2, mlp_dim: 32, patch: 8}")
    model = make_model(session)
    model.set_stage(stage)
    real = Kept(model)
    with real.watching():
        model(batch_of(session, model, 4), stage).loss.backward()
    planned = Shadow(model).cost(batch_of(session, model, 1), 4, stage, "no")
    assert planned.kept == real.total > 0
    assert planned.kept_recomputing == real.total_recomputing < real.total


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
def test_the_optimizer_s_memory_is_what_it_really_keeps(tmp_path: Path, optimizer: str) -> None:
    session = open_session(tmp_path, f"train.codes.optimizer={optimizer}")

    def build() -> tuple[Any, torch.optim.Optimizer]:
        model = make_model(session)
        model.set_stage("codes")
        run = SimpleNamespace(model=model, recipe=session.recipe, settings=session.recipe.train.codes, stage="codes")
        found = session.host.build_optimizer(run)
        assert found is not None
        return model, found

    model, real = build()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    real.step()
    kept = sum(v.numel() * v.element_size() for state in real.state.values() for v in state.values())
    model, _ = build()
    shadow = Shadow(model)
    run = SimpleNamespace(model=model, recipe=session.recipe, settings=session.recipe.train.codes, stage="codes")
    assert shadow.state_bytes(session.host.build_optimizer(run)) == kept


class Looking(Quantizer):
    """Decides by values and counts by bincount, as anybody's quantizer may."""

    class Config(PartConfig):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vocab_size, self.dim, self.depth = 2, 3, 1
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.codewords = torch.nn.Parameter(torch.eye(2, 3))

    def forward(self, vectors: torch.Tensor) -> Quantized:
        if not bool(vectors.isfinite().all()) or int(self.step) < 10:
            raise AssertionError("values were looked at and found wanting")
        ids = (vectors[..., :1] > 0).long()
        return Quantized(self.lookup(ids) + vectors, ids, {}, torch.bincount(ids.flatten(), minlength=2))

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        return self.codewords[ids[..., 0]]


def test_parts_that_look_at_values_are_planned_too(tmp_path: Path) -> None:
    host = load_host()
    host.components.add("quantizer", "looking", Looking, "test")
    session = open_session(tmp_path, "model.tokenizer.quantizer={name: looking}", host=host)
    planned = dry_run(session.recipe, host, tmp_path / "run")
    assert planned.notes == () and planned.stages[0].flops


def test_a_prior_that_lost_its_encoder_is_noted(host: Host, tmp_path: Path) -> None:
    """Another name makes another part of a prior, without what it had inside."""
    planned = dry_run(
        load_recipe("depth/tiny", ["model.prior={name: gpt, dim: 32, depth: 1, heads: 2}"], host), host, tmp_path
    )
    assert any("model.prior has no encoder" in note and "codes of depth" in note for note in planned.notes)
    blind = ["model.prior={name: gpt, dim: 32, depth: 1, heads: 2}", "eval.sampling.guidance=1"]
    labels = dry_run(load_recipe("generation/cifar10", blind, host), host, tmp_path)
    assert not any("encoder" in note for note in labels.notes), "there are no pictures to see"


# --- the plan


def test_tiny_recipes_are_planned_without_their_data_being_made(host: Host, tmp_path: Path) -> None:
    recipe = load_recipe("unified/tiny", ["train.prior.steps=0"], host)
    planned = dry_run(recipe, host, tmp_path / "run")
    assert planned.notes == () and [plan.stage for plan in planned.stages] == ["codes", "refit"]
    codes = planned.stages[0]
    assert codes.examples == pytest.approx(10 + 4 + 5), "three micro-batches, one a task"
    assert codes.epochs["panoptic"] == pytest.approx(codes.steps * 10 / 12288)
    refit = planned.stages[1]
    assert refit.epochs["panoptic"] == pytest.approx(refit.steps * 10 / 1250), "it sees those whose codes are sampled"
    assert codes.memory is not None and codes.memory["optimizer"] > 0
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_a_model_without_codes_is_planned(host: Host, tmp_path: Path) -> None:
    sets = ["model.tokenizer=null", "model.prior=null", "train.stages=[codes]", "train.codes.ema=0.9"]
    planned = dry_run(load_recipe("depth/tiny", sets, host), host, tmp_path / "run")
    (plan,) = planned.stages
    assert planned.spec is None and plan.memory is not None and plan.memory["averaged weights"] == 4 * plan.learning
    assert "without codes" in text(planned, "depth")


def test_several_processes_share_the_global_batch(host: Host, tmp_path: Path) -> None:
    recipe = load_recipe("depth/tiny", ["train.stages=[codes]", "train.codes.global_batch=80"], host)
    one, four = (dry_run(recipe, host, tmp_path / "run", processes=n).stages[0] for n in (1, 4))
    assert (one.accumulate, four.accumulate) == (8, 2)
    assert one.examples == four.examples == 80 and one.flops == four.flops


def test_all_that_would_stop_the_run_is_said_at_once(host: Host, tmp_path: Path) -> None:
    sets = [
        "train.codes.optimizer=adamv",
        "train.prior.lr_scale={prior.encodr: 0.1}",
        "train.trackers=[tensorbord]",
        "train.prior.global_batch=64",
    ]
    with pytest.raises(TrainingError) as caught:
        dry_run(load_recipe("depth/tiny", sets, host), host, tmp_path / "run")
    for said in ("'adamv'", "'prior.encodr'", "'tensorbord'", "set batch_size to 8 or 16"):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (
            ["train.stages=[codes,prior,refit]"],
            "stage refit keeps the codes of its rows, but task colorization streams",
        ),
        (["train.stages=[codes,prior]", "mixing.by=proportional"], "set mixing.by to weight"),
    ],
)
def test_what_a_stream_cannot_do_is_said(host: Host, tmp_path: Path, sets: list[str], said: str) -> None:
    streamed = "data={pictures: {name: images, source: pictures, streaming: true}}"
    recipe = load_recipe("colorization/tiny", [streamed, "tasks={colorization: {data: pictures}}", *sets], host)
    with pytest.raises(TrainingError, match=said):
        dry_run(recipe, host, tmp_path / "run")


def test_the_command_prints_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "depth/tiny", "--dry-run", "--set", "train.codes.steps=7"])
    shown = capsys.readouterr().out
    assert stopped.value.code in (0, None)
    for words in ("tokenizer.quantizer", "16 codes out of 256 (128 bits)", "7, 60 of them", "FLOP an example", "MiB"):
        assert words in shown, f"the dry run does not show {words}"
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_there_already_is_noted(host: Host, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").touch()
    recipe = load_recipe("depth/tiny", ["train.stages=[codes]"], host)
    assert "already holds a run" in dry_run(recipe, host, tmp_path / "run").notes[0]
    with pytest.raises(TrainingError, match="no checkpoint to go on from"):
        dry_run(recipe, host, tmp_path / "run", resume=True)
    checkpoint = tmp_path / "run/checkpoints/0-codes-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").touch()
    write_tensors(checkpoint / "model.safetensors", {}, {"recipe": recipe.to_yaml()})
    assert dry_run(recipe, host, tmp_path / "run", resume=True).notes == ()
    with pytest.raises(TrainingError, match=r"another recipe \(train\.codes\.lr differ\)"):
        dry_run(recipe.with_values({"train.codes.lr": 0.5}), host, tmp_path / "run", resume=True)
