"""Published evaluation protocols: which tasks of a run one measures, and whether their data have what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cynosure.core.contracts import Protocol, Task
from cynosure.errors import CynosureError, DataError

if TYPE_CHECKING:
    from cynosure.build import Session


def protocols_of(
    options: Mapping[str, Any] | str, session: Session, tasks: Mapping[str, Task], wanted: Sequence[str] | None
) -> dict[str, Protocol]:
    """The protocol built for each task that it measures, by task key: those `wanted`, else all that it can measure.

    `options` is its name, or a mapping with `name` and its options. Raises CynosureError for an unknown protocol, wrong
    options, and tasks that it does not measure; DataError where the data lack a column.
    """
    components = session.host.components
    config = components.config("protocol", options)
    name = options if isinstance(options, str) else options["name"]
    cls: type[Protocol] = components.get("protocol", name)
    known = [components.get("task", task) for task in cls.tasks if task in components.names("task")]
    fitting = {key: task for key, task in tasks.items() if isinstance(task, tuple(known))}
    if wrong := [key for key in wanted or () if key not in fitting]:
        raise CynosureError(f"protocol {name} measures {' or '.join(cls.tasks)}, not {', '.join(wrong)}")
    if not fitting:
        raise CynosureError(f"protocol {name} measures {' or '.join(cls.tasks)}, but this run has {', '.join(tasks)}")
    protocols = {key: cls(config, fitting[key]) for key in wanted or fitting}
    for key in protocols:
        _check_columns(cls, name, session, key)
    return protocols


def _check_columns(cls: type[Protocol], name: str, session: Session, key: str) -> None:
    data = session.recipe.tasks[key].data
    columns = session.datasets[data].info.fields
    if missing := [field for field in cls.fields if field not in columns]:
        raise DataError(
            f"protocol {name} needs the columns {', '.join(missing)}, which dataset {data} lacks: "
            f"it has {', '.join(columns)}"
        )
