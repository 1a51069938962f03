"""Rules between the fields of a recipe: one small function each, on raw data so that all mistakes show at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from cynosure.components import PARTS_OF
from cynosure.config.schema import Stage, as_part
from cynosure.config.yaml import Key
from cynosure.errors import unknown

Finding = tuple[Key, str]
KEY = r"[A-Za-z0-9_-]+"
"""What tasks and datasets may be called: the keys become names of modules, files and metrics."""
STAGES = get_args(Stage)
_NAMES = """
T_destination add_module apply bfloat16 buffers call_super_init children clear compile copy cpu cuda double
dump_patches eval extra_repr float forward fromkeys get get_buffer get_extra_state get_parameter get_submodule half
ipu items keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
popitem register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule setdefault share_memory state_dict to
to_empty train training type update values xpu zero_grad
"""
TAKEN = frozenset(_NAMES.split())
"""What PyTorch's tables of modules, which hold a part for each task, call something of their own."""


def keys_are_words(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    for section in ("data", "tasks"):
        for key in _section(recipe, section):
            if not re.fullmatch(KEY, key):
                yield (section, key), f"the key '{key}' must be of letters, digits, _ and -, like 'my_depth-2'"
            elif section == "tasks" and (key in TAKEN or key.startswith("_")):
                yield (section, key), f"PyTorch uses '{key}' itself: call the task otherwise, like 'my_{key}'"


def task_data_exists(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    data = _section(recipe, "data")
    for key, use in _section(recipe, "tasks").items():
        wanted = use.get("data") if isinstance(use, Mapping) else None
        if isinstance(wanted, str) and wanted not in data:
            yield ("tasks", key, "data"), unknown("dataset of this recipe", wanted, data)


def some_task_trains(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    tasks = _section(recipe, "tasks")
    if tasks and all(_kept(use) for use in tasks.values()):
        yield ("tasks",), "all have weight 0: nothing is trained; give one a weight"


def refit_tasks_train(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    tasks, wanted = _section(recipe, "tasks"), _section(recipe, "train", "refit").get("tasks")
    for i, name in enumerate(wanted if isinstance(wanted, list) else ()):
        if name not in tasks:
            yield ("train", "refit", "tasks", i), unknown("task of this recipe", name, tasks)
        elif _kept(tasks[name]):
            yield ("train", "refit", "tasks", i), f"{name} has weight 0 and is not trained; take it out of this list"


def steps_have_one_size(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    for stage, settings in _section(recipe, "train").items():
        given = settings if isinstance(settings, Mapping) else {}
        if given.get("global_batch") is not None and given.get("accumulate", 1) != 1:
            yield ("train", stage, "global_batch"), "decides how much is accumulated; take accumulate out or make it 1"


def stages_have_their_parts(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    stages, model = _section(recipe, "train").get("stages"), _section(recipe, "model")
    for stage in stages if isinstance(stages, list) else ():
        if stage in ("prior", "refit") and not model.get("prior"):
            yield ("train", "stages"), f"stage '{stage}' needs model.prior; give one or take the stage out"
    if isinstance(stages, list) and len({str(stage) for stage in stages}) < len(stages):
        yield ("train", "stages"), "names a stage twice; keep one"
    elif isinstance(stages, list) and [s for s in STAGES if s in stages] != [s for s in stages if s in STAGES]:
        yield ("train", "stages"), f"each stage learns from those before; write them in the order {', '.join(STAGES)}"
    if stages == []:
        yield ("train", "stages"), "names no stage, so nothing would be trained; name one"


def prior_has_codes(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    model = _section(recipe, "model")
    if model.get("prior") and not model.get("tokenizer"):
        yield ("model", "prior"), "has no codes to learn; give model.tokenizer or set model.prior to null"


def tokenizer_has_a_quantizer(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    tokenizer = _section(recipe, "model").get("tokenizer")
    without = isinstance(tokenizer, str) or (isinstance(tokenizer, Mapping) and tokenizer.get("quantizer") is None)
    if without:
        yield ("model", "tokenizer", "quantizer"), "is missing; give one, like {name: vq, vocab_size: 256, dim: 16}"


def parts_inside_parts_are_parts(recipe: Mapping[str, Any]) -> Iterator[Finding]:
    for kind, options in PARTS_OF.items():
        part = _section(recipe, "model", kind)
        for option in options:
            if part.get(option) is not None:
                try:
                    as_part(part[option])
                except ValueError as error:
                    yield ("model", kind, option), str(error)


CHECKS = (
    keys_are_words,
    task_data_exists,
    some_task_trains,
    refit_tasks_train,
    steps_have_one_size,
    stages_have_their_parts,
    prior_has_codes,
    tokenizer_has_a_quantizer,
    parts_inside_parts_are_parts,
)


def _kept(use: Any) -> bool:
    """Whether a task is in the model without being trained."""
    return isinstance(use, Mapping) and use.get("weight") == 0


def _section(recipe: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The mapping at `path`, empty where the recipe has something else there."""
    here: Any = recipe
    for part in path:
        here = here.get(part) if isinstance(here, Mapping) else None
    return here if isinstance(here, Mapping) else {}
