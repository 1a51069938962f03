"""What a run takes over from another one (`init` of its recipe): weights by name and shape, some of them frozen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cynosure.components import PARTS_OF
from cynosure.errors import CheckpointError
from cynosure.train.checkpoint import model_file, read_tensors, shapes_of, some
from cynosure.train.groups import begins, check_prefixes
from cynosure.train.saving import prior_trained

if TYPE_CHECKING:
    from cynosure.train.loop import Run

Tensors = Mapping[str, torch.Tensor]


def inherit(run: Run) -> None:
    """Begin with the weights that `init` names, unless the run goes on from a checkpoint of its own, and freeze them.

    Raises CheckpointError for a source that cannot be read, that has nothing of this model, or whose arrays have other
    shapes; TrainingError for a prefix that nothing has.
    """
    init = run.recipe.init
    if init is None:
        return
    if not run.taken:
        run.taken = frozenset(_take(run))
    if isinstance(init.freeze, list):
        check_prefixes(init.freeze, run.taken, "init.freeze", "array that is taken")
        run.model.frozen = frozenset(name for name in run.taken if any(begins(name, p) for p in init.freeze))
    elif init.freeze:
        run.model.frozen = run.taken


def _take(run: Run) -> list[str]:
    """Copy the source's arrays into the model; their names."""
    init, own = run.recipe.init, run.model.state_dict()
    given, file = _source(run)
    check_prefixes(init.fresh, given, "init.fresh", f"array of {file}")
    offered = {name: tensor for name, tensor in given.items() if not any(begins(name, p) for p in init.fresh)}
    fitting = {name: tensor for name, tensor in offered.items() if name in own}
    if not fitting:
        raise CheckpointError(
            f"init.from: {file} has nothing of this model: its names begin with {_tops(given)}, here with {_tops(own)}."
        )
    _require_shapes(own, fitting, file)
    run.model.load_state_dict({**own, **fitting})
    new, over = [name for name in own if name not in fitting], [name for name in given if name not in fitting]
    told = [f"{len(fitting)} arrays are taken from {file}"]
    told.append(f"{len(new)} begin anew ({some(_parts(new, fitting))})" if new else "none begins anew")
    told += [f"{len(over)} of its arrays stay behind ({some(_parts(over, fitting))})"] if over else []
    run.progress.say(f"{', '.join(told)}.")
    return list(fitting)


def _source(run: Run) -> tuple[dict[str, torch.Tensor], Path]:
    """The source's arrays, without a prior that has not learnt anything yet."""
    file = model_file(Path(run.recipe.init.source).expanduser())
    tensors, told = read_tensors(file)
    if not prior_trained(told):
        tensors = {name: tensor for name, tensor in tensors.items() if not begins(name, "prior")}
    return tensors, file


def _require_shapes(own: Tensors, given: Tensors, file: Path) -> None:
    wanted, found = shapes_of(own), shapes_of(given)
    wrong = [name for name in wanted if name in found and found[name] != wanted[name]]
    if wrong:
        shown = some([f"{name} is {list(found[name])}, here {list(wanted[name])}" for name in wrong])
        names = ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in wrong))
        options = ", ".join(dict.fromkeys(map(_option, wrong)))
        raise CheckpointError(
            f"init.from: {len(wrong)} arrays of {file} have another shape than this model's ({shown}): change "
            f"{options} in the recipe, or let them begin anew with init.fresh: [{names}]."
        )


def _option(name: str) -> str:
    """Where a recipe describes the part that an array belongs to."""
    kind, part, *_ = (*name.split("."), "")
    return f"model.{kind}.{part}" if part in PARTS_OF.get(kind, {}) else f"model.{kind}"


def _parts(names: Sequence[str], taken: Collection[str]) -> list[str]:
    """The names, shortened to the largest parts of a model of which nothing else was taken."""
    partly = {part for name in taken for part in accumulate(name.split("."), "{}.{}".format)}
    tops = (next((p for p in accumulate(n.split("."), "{}.{}".format) if p not in partly), n) for n in names)
    return list(dict.fromkeys(tops))


def _tops(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.partition(".")[0] for name in names})) or "nothing"
