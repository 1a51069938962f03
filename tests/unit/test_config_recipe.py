"""Recipes: merged, overridden and checked, with every mistake reported at its place."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from cynosure.config.editor import json_schema
from cynosure.config.recipe import Recipe, differences, load_recipe
from cynosure.config.shelf import find_recipes
from cynosure.errors import ConfigError, CynosureError
from cynosure.host import Host
from cynosure.registry import Mixture, PluginEntry, Registry

BASE = """\
# A small run.
schema: 1
data:
  scenes: {name: toy}
tasks:
  depth: {data: scenes, batch_size: 6, bins: 8}
  panoptic: {data: scenes}
model:
  tokenizer: {name: oracle, width: 8, quantizer: {name: vq, vocab_size: 16}}
  base: vit
  prior: {name: gpt, encoder: {name: vit}}
train:
  codes: {lr: 1e-4, steps: 1e3}
"""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def component(**options):
    """A component class whose Config has `options` with these defaults."""
    fields = {"__annotations__": {name: type(value) for name, value in options.items()}, **options}
    return type("Component", (), {"Config": type("Config", (Strict,), fields)})


class NeedsClasses:
    class Config(Strict):
        classes: list[str]
        thing_weight: float = 1.0


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)


@pytest.fixture
def host() -> Host:
    host = Host(Registry({}, {"mostly_depth": Mixture(tasks={"depth": 3.0}), "far": Mixture(tasks={"far": 1.0})}))
    parts = {
        "dataset": {"toy": component(size=64)},
        "task": {"depth": component(bins=4), "panoptic": NeedsClasses},
        "tokenizer": {"oracle": component(width=4)},
        "quantizer": {"vq": component(vocab_size=4, decay=0.9)},
        "base": {"vit": component(width=4), "conv": component(layers=2)},
        "prior": {"gpt": component(layers=2), "maskgit": component(rounds=8)},
        "encoder": {"vit": component(width=4)},
    }
    for kind, classes in parts.items():
        for name, cls in classes.items():
            host.components.add(kind, name, cls, "test")
    return host


def recipe(text: str, *sets: str, host: Host | None = None) -> Recipe:
    Path("run.yaml").write_text(text)
    return load_recipe("run.yaml", sets, host)


def problems(text: str, *sets: str, host: Host | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        recipe(text, *sets, host=host)
    return str(caught.value).splitlines()


def test_recipe_is_read_with_its_defaults(host):
    loaded = load_recipe("base.yaml", host=host)
    assert loaded.image_size == (64, 64) and loaded.seed == 0
    assert loaded.train.codes.lr == 1e-4 and loaded.train.codes.steps == 1000
    assert loaded.tasks["depth"].options == {"name": "depth", "bins": 8}
    assert loaded.tasks["depth"].batch_size == 6 and loaded.tasks["panoptic"].weight == 1.0
    assert loaded.model.base == {"name": "vit", "width": 4}, "defaults of components belong to the resolved recipe"
    assert loaded.model.tokenizer["quantizer"] == {"name": "vq", "vocab_size": 16, "decay": 0.9}
    assert loaded.train.stages == ["codes", "prior"], "the stages follow from the parts"


def test_five_mistakes_are_all_reported_at_their_lines(host):
    text = BASE.replace("scenes: {name: toy}", "scenes: {name: toy, sise: 3}").replace("batch_size: 6", "batch_size: 0")
    text = text.replace("vocab_size: 16", "vocab_size: many").replace("{name: gpt", "{name: gtp") + "seeed: 3\n"
    assert problems(text, host=host) == [
        "run.yaml:4:23 data.scenes.sise: unknown key, did you mean 'size'?",
        "run.yaml:6:25 tasks.depth.batch_size: should be greater than or equal to 1, not 0",
        "run.yaml:9:61 model.tokenizer.quantizer.vocab_size: should be a valid integer, unable to parse string as an "
        "integer, not 'many'",
        "run.yaml:11:11 model.prior.name: no prior is named 'gtp', did you mean 'gpt'? (there is gpt, maskgit)",
        "run.yaml:14:1 seeed: unknown key, did you mean 'seed'?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {codes: {lr: -1}}", "run.yaml:2:17 train.codes.lr: should be greater than 0, not -1"),
        ("train: {codes: {lr: .inf}}", "train.codes.lr: should be a finite number"),
        ("train: {codes: {steps: -1}}", "train.codes.steps: should be greater than or equal to 0"),
        ("train: {codes: {steps: true}}", "train.codes.steps: must be a number, not true"),
        ("train: {codes: {stepz: 3}}", "train.codes.stepz: unknown key, did you mean 'steps'?"),
        ("train: {codes: {betas: [0.9, 1.0]}}", "train.codes.betas.1: should be less than 1"),
        ("train: {refit: {sampled: 1.5}}", "train.refit.sampled: should be less than or equal to 1"),
        (
            "train: {refit: {tasks: [dept]}}",
            "train.refit.tasks.0: no task of this recipe is named 'dept', did you mean",
        ),
        ("train: {refit: {tasks: []}}", "train.refit.tasks"),
        ("train: {stages: [codes, codes]}", "train.stages: names a stage twice"),
        ("train: {stages: []}", "train.stages: names no stage"),
        ("train: {stages: [prior, codes]}", "train.stages: each stage learns from those before"),
        ("seed: !!int foo", "'foo' is no int"),
        ("train: {stages: [code]}", "train.stages.0: should be 'codes', 'prior' or 'refit', not 'code'"),
        ("train: {precision: fp8}", "train.precision: should be 'no', 'bf16' or 'fp16'"),
        ("image_size: 0", "image_size.0: should be greater than or equal to 1"),
        ("image_size: [32]", "image_size.1: is missing"),
        ("image_size: big", "image_size: must be one number, or [height, width]"),
        ("mixing: {by: wieght}", "mixing.by: should be 'weight'"),
        ("model: {prior: null, base: 3}", "model.base: must be a name, or a mapping with 'name'"),
        ("model: {prior: null}\ntrain: {stages: [prior]}", "train.stages: stage 'prior' needs model.prior"),
        ("model: {tokenizer: null}", "model.prior: has no codes to learn"),
        ("tasks: {depth: {data: scene}}", "tasks.depth.data: no dataset of this recipe is named 'scene', did you mean"),
        (
            "tasks: {dept: null}",
            "run.yaml:2:9 tasks.dept: null takes nothing away: no task is named 'dept', did you mean",
        ),
        ("data: {photos: null}", "run.yaml:2:8 data.photos: null takes nothing away: no data set is named 'photos'"),
        ("tasks: {depth: null, panoptic: null}", "tasks: Dictionary should have at least 1 item"),
        ("eval: {sampling: {top_p: 2}}", "eval.sampling.top_p: must be numbers above 0, at most 1, one for all"),
        ("eval: {sampling: {top_p: [0.9, 0]}}", "eval.sampling.top_p: must be numbers above 0"),
        ("eval: {sampling: {top_k: 1.5}}", "eval.sampling.top_k: must be whole numbers of 1 or more"),
        ("eval: {sampling: {top_k: []}}", "eval.sampling.top_k: must be whole numbers of 1 or more"),
        ("eval: {sampling: {guidance: -1}}", "eval.sampling.guidance: should be greater than or equal to 0"),
        ("eval: {sampling: {steps: 0}}", "eval.sampling.steps: should be greater than or equal to 1"),
        ("eval: {sampling: {cfg: 2}}", "eval.sampling.cfg: unknown key"),
        ("model: {tokenizer: oracle}", "run.yaml:2:9 model.tokenizer.quantizer: is missing; give one"),
        ("model: {tokenizer: {name: other}}", "run.yaml:2:9 model.tokenizer.quantizer: is missing; give one"),
        ("model: {tokenizer: {quantizer: null}}", "run.yaml:2:21 model.tokenizer.quantizer: is missing; give one"),
        ("model: {tokenizer: {quantizer: 5}}", "run.yaml:2:21 model.tokenizer.quantizer: must be a name, or a mapping"),
        ("model: {prior: {encoder: [vit]}}", "run.yaml:2:17 model.prior.encoder: must be a name, or a mapping"),
        ("model: {prior: {encoder: {name: 5}}}", "model.prior.encoder: needs 'name', the name of a registered"),
        ("seed: 9223372036854775808", "seed: should be less than 9223372036854775808"),
        (
            "tasks: {type: {data: scenes}}",
            "run.yaml:2:9 tasks.type: PyTorch uses 'type' itself: call the task otherwise",
        ),
        ("tasks: {a.b: {data: scenes}}", "run.yaml:2:9 tasks.a.b: the key 'a.b' must be of letters, digits, _ and -"),
        ("data: {my set: {name: toy}}", "run.yaml:2:8 data.my set: the key 'my set' must be of letters, digits"),
        ("schema: 2", "schema: should be 1, not 2"),
        ("train: 3", "train: must be a mapping"),
        ("tasks: {new: {weight: 1}}", "run.yaml:2:9 tasks.new.data: is missing"),
    ],
)
def test_mistake_is_reported(text, message):
    assert any(message in line for line in problems(f"base: base.yaml\n{text}\n")), problems(
        f"base: base.yaml\n{text}\n"
    )


@pytest.mark.parametrize("quantizer", ["5", "[vq]", "{size: 3}"])
def test_part_inside_a_part_is_checked_beside_the_options_of_components(quantizer, host):
    text = BASE.replace("{name: vq, vocab_size: 16}", quantizer)
    assert any("run.yaml:9:39 model.tokenizer.quantizer" in line for line in problems(text, host=host))


def test_key_given_twice_does_not_hide_other_mistakes():
    Path("base.yaml").write_text(BASE + "seed: 1\nseed: 2\n")
    assert problems("base: base.yaml\nseed: -3\ntrain: {keep: 2, keep: 3}\n") == [
        "base.yaml:15:1 seed: is given twice, first in line 14; keep one",
        "run.yaml:2:1 seed: should be greater than or equal to 0, not -3",
        "run.yaml:3:18 train.keep: is given twice, first in line 3; keep one",
    ]
    assert len(problems("seed: 1\nseed: 2\nbase: gone.yaml\n")) == 2


def test_wrong_value_in_the_base_is_reported_in_the_base_file():
    Path("base.yaml").write_text(BASE.replace("1e-4", "-1"))
    assert problems("base: base.yaml\nseed: -3\n") == [
        "base.yaml:13:11 train.codes.lr: should be greater than 0, not -1",
        "run.yaml:2:1 seed: should be greater than or equal to 0, not -3",
    ]


def test_option_that_only_the_dataset_can_give_may_be_missing(host):
    assert "classes" not in load_recipe("base.yaml", host=host).tasks["panoptic"].options
    text = "base: base.yaml\ntasks: {panoptic: {thing_wieght: 2}}"
    assert "tasks.panoptic.thing_wieght: unknown key, did you mean 'thing_weight'?" in problems(text, host=host)[0]


def test_base_is_merged_key_by_key():
    loaded = recipe("base: base.yaml\ntasks: {depth: {bins: 3}, panoptic: null}\ntrain: {codes: {steps: 5}}\n")
    assert loaded.tasks["depth"].options == {"name": "depth", "bins": 3} and list(loaded.tasks) == ["depth"]
    assert (loaded.train.codes.steps, loaded.train.codes.lr) == (5, 1e-4)


def test_component_with_another_name_starts_afresh(host):
    text = "base: base.yaml\nmodel: {prior: {name: maskgit, encoder: vit}, base: {name: conv}}"
    model = recipe(text, host=host).model
    assert model.prior == {"name": "maskgit", "rounds": 8, "encoder": {"name": "vit", "width": 4}}
    assert model.base == {"name": "conv", "layers": 2}


def test_bases_can_be_stacked_and_lie_beside_their_file():
    Path("deep").mkdir()
    Path("deep/middle.yaml").write_text("base: ../base.yaml\nseed: 5\n")
    assert recipe("base: deep/middle.yaml\n").seed == 5


def test_circle_of_bases_is_reported():
    Path("one.yaml").write_text("base: two.yaml\n")
    Path("two.yaml").write_text("seed: 1\nbase: one.yaml\n")
    with pytest.raises(
        ConfigError, match=r"two.yaml:2:1 base: goes in a circle: .*one.yaml -> .*two.yaml -> .*one.yaml"
    ):
        load_recipe("one.yaml")


def test_missing_base_is_reported_at_its_key():
    assert problems("seed: 1\nbase: bass.yaml\n")[0].startswith("run.yaml:2:1 base: there is no recipe file bass.yaml")
    assert problems("base: 3\n") == ["run.yaml:1:1 base: must be the name or the file of one recipe"]


def test_set_overrides_with_yaml_values(host):
    sets = ["train.codes.lr=1e-2", "image_size=[32, 48]", "model.base.width=9", "tasks.panoptic=null", "seed=7"]
    loaded = load_recipe("base.yaml", [*sets, "model.prior.encoder.width=2"], host)
    assert loaded.train.codes.lr == 0.01 and loaded.image_size == (32, 48) and loaded.seed == 7
    assert loaded.model.base == {"name": "vit", "width": 9} and list(loaded.tasks) == ["depth"]
    assert loaded.model.prior["encoder"]["width"] == 2


def test_mistakes_in_set_are_reported_with_it(host):
    sets = [
        "train.codes.lr=-1",
        "tran.codes.lr=1",
        "seed",
        "a:b",
        "model.base.widht=3",
        "seed=[1",
        "train.codes.stepps=3",
    ]
    assert problems(BASE, *sets, host=host) == [
        "--set a:b must look like key.key=value",
        "--set model.base.widht model.base.widht: unknown key, did you mean 'width'?",
        "--set seed is not valid YAML: expected ',' or ']', but got '<stream end>'",
        "--set seed must look like key.key=value",
        "--set train.codes.lr train.codes.lr: should be greater than 0, not -1",
        "--set train.codes.stepps train.codes.stepps: unknown key, did you mean 'steps'?",
        "--set tran.codes.lr tran: unknown key, did you mean 'train'?",
    ]


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("- a\n", "is not a mapping")])
def test_file_that_is_no_recipe_is_an_error(text, message):
    assert message in problems(text)[0]


def test_unknown_recipe_lists_what_exists():
    with pytest.raises(CynosureError, match=r"there is no recipe file gone.yaml"):
        load_recipe("gone.yaml")
    with pytest.raises(CynosureError, match="no recipe is named 'unified/tinny', did you mean 'unified/tiny'"):
        load_recipe("unified/tinny")


def test_resolved_recipe_loads_again_to_the_same(host):
    loaded = load_recipe("base.yaml", host=host)
    Path("again.yaml").write_text(loaded.to_yaml())
    again = load_recipe("again.yaml", host=host)
    assert again == loaded and again.digest() == loaded.digest()


def test_digest_tells_recipes_apart(host):
    assert load_recipe("base.yaml", host=host).digest() != load_recipe("base.yaml", ["seed=1"], host).digest()
    assert len(load_recipe("base.yaml").digest()) == 16


def test_recipe_does_not_change():
    with pytest.raises(ValidationError):
        load_recipe("base.yaml").seed = 3


def test_task_options_can_be_completed(host):
    loaded = load_recipe("base.yaml", host=host)
    done = loaded.with_task_options({"panoptic": {"name": "panoptic", "classes": ["sky"]}})
    assert done.tasks["panoptic"].options == {"name": "panoptic", "classes": ["sky"]}
    assert done.tasks["depth"] == loaded.tasks["depth"]


def test_values_can_be_replaced_and_are_checked():
    loaded = load_recipe("base.yaml")
    assert loaded.with_values({"train.codes.steps": 3, "seed": 9}).train.codes.steps == 3
    with pytest.raises(ConfigError, match=r"train\.codes\.lr: should be greater than 0"):
        loaded.with_values({"train.codes.lr": 0})


def test_differences_name_what_trains_otherwise():
    loaded = load_recipe("base.yaml")
    other = load_recipe("base.yaml", ["train.codes.lr=1", "tasks.depth.bins=3", "train.log_every=1", "eval.limit=3"])
    assert differences(loaded.to_yaml(), other) == ["tasks.depth.bins", "train.codes.lr"]
    assert differences(loaded.to_yaml(), loaded) == []


def test_data_that_have_moved_are_no_difference(tmp_path):
    """A run goes on from where its data are now; data beside those that it began with are others."""
    loaded, there = load_recipe("base.yaml"), tmp_path / "there"
    name = next(iter(loaded.data))
    before, now = (
        loaded.model_copy(update={"data": {name: {"name": "images", "source": str(path)}}})
        for path in (there, tmp_path)
    )
    assert differences(before.to_yaml(), now) == []
    there.mkdir()
    assert differences(before.to_yaml(), now) == [f"data.{name}.source"]


def test_mixture_chooses_and_weighs_tasks(host):
    loaded = load_recipe("base.yaml", ["mixing.mixture=mostly_depth"], host)
    assert list(loaded.tasks) == ["depth"] and loaded.tasks["depth"].weight == 3.0
    Path("again.yaml").write_text(loaded.to_yaml())
    assert load_recipe("again.yaml") == loaded, "a resolved recipe no longer needs the registry's mixture"


def test_unknown_or_unfit_mixture_is_an_error(host):
    assert "did you mean 'mostly_depth'" in problems(BASE, "mixing.mixture=mostly_dept", host=host)[0]
    assert "'far' draws far, add it" in problems(BASE, "mixing.mixture=far", host=host)[0]


def test_recipes_of_plugins_are_found(tmp_path):
    (tmp_path / "recipes" / "stars").mkdir(parents=True)
    (tmp_path / "recipes" / "stars" / "tiny.yaml").write_text(BASE)
    (tmp_path / "recipes" / "stars" / "bare.yaml").write_text("schema: 1\n")
    (tmp_path / "plugin.py").write_text("")
    registry = Registry({"stars": PluginEntry(path=tmp_path / "plugin.py"), "gone": PluginEntry(module="gone_module")})
    assert [(info.name, info.summary) for info in find_recipes(registry)] == [
        ("stars/bare", ""), ("stars/tiny", "A small run."),
    ]  # fmt: skip
    off = Registry({"stars": PluginEntry(path=tmp_path / "plugin.py", enabled=False)})
    assert find_recipes(off) == []


def test_json_schema_describes_components_for_editors(host):
    schema = json_schema(host)
    json.dumps(schema)
    definitions = schema["$defs"]
    assert definitions["base"]["anyOf"][0] == {"enum": ["vit", "conv"]}
    assert set(definitions["tokenizer.oracle"]["properties"]) == {"name", "width", "quantizer"}
    assert "bins" in definitions["task.depth"]["properties"]
    assert definitions["Train"]["properties"]["keep"]["minimum"] == 1
    assert schema["properties"]["tasks"]["propertyNames"] == {"pattern": "^[A-Za-z0-9_-]+$"}
    assert schema["properties"]["train"] and schema["properties"]["base"]["type"] == "string"
