"""The published tokenizers and priors: every recipe is valid and has the published parameters; dry runs plan them."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import init_empty_weights

import cynosure_tasks
from cynosure.build import build_model, complete
from cynosure.config.recipe import load_recipe
from cynosure.core.guided import GuidedModel
from cynosure.core.initial import planned
from cynosure.errors import CheckpointError
from cynosure.host import Host, load_host
from cynosure.run.dryrun import DryRun, dry_run

CODEBOOK = 16384 * 256
"""Of RQ-VAE, which moving averages keep outside the parameters."""
CLASSES = 1000
PATCHES, PATCHES_OF_TWO = 2_765_633, 663_361
"""Parameters of the discriminators of three layers and of two."""
PUBLISHED = {
    "generation/vqgan_paper": (76_073_859, PATCHES, 1_410_640_896 + CLASSES * 1536),
    "generation/vqgan_gumbel_paper": (66_890_627 + 257 * 8192, PATCHES, 0),
    "generation/maskgit_paper": (54_515_587, PATCHES, 172_457_193),
    "generation/rqvae_480m_paper": (104_401_795 - CODEBOOK, PATCHES_OF_TWO, 480_921_088 - 1536),
    "generation/rqvae_paper": (104_401_795 - CODEBOOK, PATCHES_OF_TWO, 820_899_328 - 1536),
    "generation/rqvae_1400m_paper": (104_401_795 - CODEBOOK, PATCHES_OF_TWO, 1_387_529_728 - 1536),
    "generation/rqvae_3800m_paper": (104_401_795 - CODEBOOK, PATCHES_OF_TWO, 3_822_488_064 - 2560),
    "text_to_image/rq_paper": (104_401_795 - CODEBOOK, PATCHES_OF_TWO, 654_061_568),
    "generation/next_scale_paper": (108_948_355 - 16_384, PATCHES, 310_283_520 + 16_384 - 1024),
    "generation/vit_vqgan_paper": (90_713_088 + 88_794_816 + 312_096, PATCHES, 0),
    "generation/qlae_paper": (7_651_780, 0, 0),
}
"""Of tokenizer and base, of criteria, of the prior: what the published arrays count, and by how much ours differ."""


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "cache"))


def plan(host: Host, name: str, *sets: str) -> DryRun:
    return dry_run(load_recipe(name, sets, host), host, Path("run"))


def model_of(host: Host, name: str, *sets: str) -> GuidedModel:
    with planned(), init_empty_weights():
        return build_model(complete(load_recipe(name, sets, host), {}, host), host)


def count(*parts: object) -> int:
    return sum(p.numel() for part in parts if part is not None for p in part.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_parameters(host: Host, name: str) -> None:
    model = model_of(host, name)
    found = count(model.tokenizer, model.base), count(model.criteria), count(model.prior)
    assert found == PUBLISHED[name]


def test_the_other_published_tokenizers_are_a_setting_away(host: Host) -> None:
    small = model_of(host, "generation/vqgan_paper", "model.tokenizer.quantizer.vocab_size=1024")
    assert count(small.tokenizer, small.base) == 76_073_859 - (16384 - 1024) * 256
    large = model_of(host, "generation/maskgit_paper", "image_size=512")
    assert count(large.prior) == 172_457_193 + (1024 - 256) * 768


def test_every_published_recipe_is_pinned(host: Host) -> None:
    folder = Path(cynosure_tasks.__file__).parent / "recipes"
    found = {f"{p.parent.name}/{p.stem}" for p in folder.glob("*/*_paper.yaml")}
    assert found == set(PUBLISHED)


def test_operations_of_a_masked_prior_are_those_of_a_count_by_hand(host: Host) -> None:
    """Codes are stored, so that no tokenizer runs; a multiply-add is two, the backward pass twice the forward."""
    settings = "train.prior.views=1", "train.stages=[prior]", "train.prior.global_batch=16"
    stage = plan(host, "generation/maskgit_paper", *settings).stages[0]
    d, tokens = 768, 257
    blocks = 24 * (3 * 2 * 12 * d * d * tokens + 3 * 4 * tokens * tokens * d)  # with dropout scores are kept
    head = 3 * 2 * 256 * d * (d + 2025)
    assert stage.flops == pytest.approx(16 * (blocks + head), rel=1e-3)


def test_operations_of_an_rq_transformer_count_body_and_head(host: Host) -> None:
    """The body runs over 64 positions, the head over their 256 codes."""
    settings = "train.prior.views=1", "train.stages=[prior]", "train.prior.global_batch=32"
    soft = "model.prior.soft_temperature=null"
    stage = plan(host, "generation/rqvae_480m_paper", *settings, soft).stages[0]
    d, multiply = 1536, 3 * 2
    body = 12 * (multiply * 12 * d * d * 64 + 3.5 * 4 * 64 * 64 * d)
    head = 4 * 64 * (multiply * 12 * d * d * 4 + 3.5 * 4 * 4 * 4 * d)
    around = multiply * 256 * d * 16384 + 2 * 2 * (63 + 3 * 64) * 256 * d  # codewords need no gradient
    assert stage.flops == pytest.approx(32 * (body + head + around), rel=1e-3)


def test_a_dry_run_of_both_stages_needs_no_file_and_says_which_are_missing(host: Host) -> None:
    planned_run = plan(host, "generation/vqgan_paper", "model.prior.depth=1", "image_size=64")
    assert [stage.stage for stage in planned_run.stages] == ["codes", "prior"]
    assert all(stage.costs and stage.memory for stage in planned_run.stages), planned_run.notes
    assert [part.parameters for part in planned_run.parts if part.name.startswith("criteria")] == [0, PATCHES]
    missing = [note for note in planned_run.notes if "for criterion lpips" in note]
    assert [note.split()[4] for note in missing] == ["data/vgg16.pth", "data/vgg.pth"]


def test_a_dry_run_reads_texts_without_their_vocabulary(host: Host) -> None:
    small = [f"model.prior.{part}=1" for part in ("depth", "head_depth")]
    planned_run = plan(host, "text_to_image/rq_paper", *small, "image_size=64", "model.criteria=null")
    assert all(stage.costs and stage.memory for stage in planned_run.stages), planned_run.notes
    missing = [note.split()[4] for note in planned_run.notes if "for encoder bpe" in note]
    assert missing == ["data/bpe-16k-vocab.json", "data/bpe-16k-merges.txt"]


def test_a_training_does_need_the_files(host: Host) -> None:
    recipe = complete(load_recipe("generation/vqgan_paper", host=host), {}, host)
    with init_empty_weights(), pytest.raises(CheckpointError, match=r"no file data/vgg16\.pth"):
        build_model(recipe, host)
