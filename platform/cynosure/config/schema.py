"""The fields of a recipe. Descriptions are the help that `cynosure recipes schema` gives to editors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

Stage = Literal["codes", "prior", "refit"]


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


def _size(value: Any) -> Any:
    if not isinstance(value, int | list | tuple):
        raise ValueError(f"must be one number, or [height, width], not {value!r}")
    return (value, value) if isinstance(value, int) else value


def _by_depth(kind: Any, fits: Callable[[Any], bool], described: str) -> Callable[[Any], Any]:
    """A validator of one value for all depths, or a list of one for each."""

    def validate(value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else (value,)
        if not values or not all(isinstance(v, kind) and not isinstance(v, bool) and fits(v) for v in values):
            raise ValueError(f"must be {described}, one for all depths or a list of one for each, not {value!r}")
        return tuple(values) if isinstance(value, list | tuple) else value

    return validate


def _one_or_several(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]}


def as_part(value: Any) -> dict[str, Any]:
    """A component's options from what a recipe says: its name, or a mapping. Raises ValueError for anything else."""
    value = {"name": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise ValueError("must be a name, or a mapping with 'name' and the component's options")
    if not isinstance(value.get("name"), str):
        raise ValueError("needs 'name', the name of a registered component")
    return dict(value)


Size = Annotated[int, Field(ge=1), BeforeValidator(_number)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_number)]
Seed = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(_number)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)]
Beta = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_number)]
ImageSize = Annotated[
    tuple[Size, Size],
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
            ]
        }
    ),
]
TopK = Annotated[
    Any,
    BeforeValidator(_by_depth(int, lambda k: k >= 1, "whole numbers of 1 or more")),
    WithJsonSchema(_one_or_several({"type": "integer", "minimum": 1})),
]
TopP = Annotated[
    Any,
    BeforeValidator(_by_depth((int, float), lambda p: 0 < p <= 1, "numbers above 0, at most 1")),
    WithJsonSchema(_one_or_several({"type": "number", "exclusiveMinimum": 0, "maximum": 1})),
]
Part = Annotated[dict[str, Any], BeforeValidator(as_part)]
"""A component by `name`, its own options beside it."""


class Section(BaseModel):
    """Part of a recipe: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class TaskUse(BaseModel):
    """A task in this run; keys that are not listed here are the task's own options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(description="the registered task; by default the key")
    data: str = Field(description="which of the recipe's datasets it learns from")
    weight: Amount = Field(
        1.0,
        description="how often the task is drawn, relative to the others; 0 keeps it in the model, untrained",
    )
    batch_size: Size = Field(8, description="examples per micro-batch")
    loss_weight: Positive = Field(1.0, description="factor on the task's loss in stages `codes` and `refit`")
    prior_weight: Positive = Field(1.0, description="factor on what its codes cost in stage `prior`")

    @property
    def options(self) -> dict[str, Any]:
        """The task's own options with its name, as `Components.build` takes them."""
        return {"name": self.name, **(self.model_extra or {})}


class Mixing(Section):
    by: Literal["weight", "temperature", "proportional"] = Field(
        "weight",
        description="micro-batches by weight; examples by the number of rows (proportional), or by rows^(1/T)",
    )
    temperature: Positive = Field(1.0, description="T for `by: temperature`")
    mixture: str | None = Field(
        None, description="a mixture of registry.yaml; it says which tasks run, and weighs them"
    )


class Init(Section):
    """Weights to begin with. What the source has under the name of one of the model's arrays is taken."""

    source: str = Field(alias="from", description="a run's folder or a model file, whole or of some parts only")
    fresh: list[str] = Field([], description="beginnings of names that start anew although the source has them")
    freeze: bool | list[str] = Field(
        False, description="what stays as it was taken: true for all of it, or beginnings of names"
    )


class Model(Section):
    tokenizer: Part | None = Field(None, description="the guiding-code oracle; null for a model without codes")
    base: Part = Field(description="the base model f(x, z)")
    prior: Part | None = Field(None, description="the code language model p(z | x)")
    criteria: list[Part] | None = Field(
        None, description="losses of stage codes that need a network of their own, each aware of those before it"
    )
    code_dropout: Share = Field(0.0, description="chance that an example's codes are thinned in stage codes")


class StageSettings(Section):
    """How one stage trains. `steps: 0` skips it."""

    steps: Count = Field(1000, description="optimizer steps; 0 skips the stage")
    lr: Positive = Field(1e-3, description="peak learning rate")
    warmup: Count = Field(0, description="steps of linear warm-up")
    final_lr: Share = Field(0.0, description="learning rate at the end of the cosine, as a share of the peak")
    weight_decay: Amount = 0.01
    betas: tuple[Beta, Beta] = Field((0.9, 0.98), description="momentum terms of the optimizer")
    clip: Amount = Field(1.0, description="largest norm of the gradient; 0 does not clip")
    accumulate: Size = Field(1, description="micro-batches per optimizer step, on every process")
    global_batch: Size | None = Field(
        None,
        description="examples per optimizer step over all processes, in place of accumulate; the tasks then need one "
        "batch_size, and batch_size times processes must divide it",
    )
    ema: Beta = Field(0.0, description="decay of the averaged weights; 0 keeps none")
    optimizer: str = Field("adamw", description="name of the optimizer")
    lr_scale: dict[str, Positive] = Field(
        {},
        description="factor on the learning rate of parameters by the beginning of their name, e.g. "
        "{prior.encoder: 0.1}; longest prefix wins",
    )


class PriorStage(StageSettings):
    views: Count = Field(0, description="augmented views per example whose codes are cached; 0 encodes on the fly")
    warm_start: bool = Field(True, description="start the prior's encoder from the base model's weights where they fit")


class RefitStage(StageSettings):
    tasks: Annotated[list[str], Field(min_length=1)] | None = Field(None, description="tasks to refit; null for all")
    sampled: Share = Field(0.7, description="share of examples that use codes sampled from the prior")
    examples: Size = Field(2048, description="examples whose codes are sampled")
    temperature: Amount = Field(0.7, description="sampling temperature")


class Train(Section):
    stages: list[Stage] = Field(
        ["codes"], description="which stages run, in order; by default codes, and prior if there is one"
    )
    codes: StageSettings = StageSettings()
    prior: PriorStage = PriorStage()
    refit: RefitStage = RefitStage()
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="mixed precision")
    compile: bool = Field(False, description="compile the transformer blocks with torch.compile")
    checkpointing: bool = Field(
        False, description="compute transformer blocks again in the backward pass instead of keeping what they computed"
    )
    workers: Count = Field(0, description="processes that prepare data")
    log_every: Size = Field(10, description="steps between two log lines")
    save_every: Size = Field(500, description="steps between two checkpoints")
    eval_every: Count = Field(0, description="steps between two evaluations in training; 0 never evaluates")
    keep: Size = Field(2, description="checkpoints to keep")
    trackers: list[str] = Field([], description="experiment trackers of accelerate, e.g. tensorboard")


class Sampling(Section):
    temperature: Amount = Field(0.0, description="0 takes the most likely code")
    top_k: TopK | None = Field(None, description="draw from the k most likely codes; a list gives one k a depth")
    top_p: TopP | None = Field(
        None, description="draw from the smallest set of this mass; a list gives one share a depth"
    )
    guidance: Amount = Field(
        1.0, description="classifier-free guidance; 1 is off, others need a prior with condition_dropout above 0"
    )
    steps: Size | None = Field(None, description="rounds of a prior that writes in rounds, such as masked")


class Eval(Section):
    split: str = "validation"
    limit: Size | None = Field(512, description="examples to evaluate; null for all")
    batch_size: Size = 32
    sampling: Sampling = Sampling()


class RecipeFields(Section):
    """All fields of a recipe; `Recipe` adds what a recipe does."""

    version: Literal[1] = Field(1, alias="schema", description="version of the recipe format")
    seed: Seed = 0
    image_size: ImageSize = Field((64, 64), description="pixels the model works at, one number or [height, width]")
    data: dict[str, Part] = Field(min_length=1, description="datasets by a name of your choice")
    tasks: dict[str, TaskUse] = Field(min_length=1, description="the tasks to learn")
    mixing: Mixing = Mixing()
    model: Model
    init: Init | None = Field(None, description="another run's weights to begin with; null begins anew")
    train: Train = Train()
    eval: Eval = Eval()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: Any) -> Any:
        """A task's name defaults to its key, the stages to those that the model has parts for."""
        if not isinstance(raw, Mapping):
            return raw
        filled = dict(raw)
        tasks, model, train = raw.get("tasks"), raw.get("model"), raw.get("train", {})
        if isinstance(tasks, Mapping):
            filled["tasks"] = {
                key: {"name": key, **use} if isinstance(use, Mapping) else use for key, use in tasks.items()
            }
        if isinstance(model, Mapping) and model.get("prior") and isinstance(train, Mapping):
            filled["train"] = {"stages": ["codes", "prior"], **train}
        return filled
