"""What an evaluation found, as plain data: JSON, a table for people, a flat mapping for logs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

TITLES = {"oracle": "oracle", "prior": "prior", "random": "random", "none": "no codes", "baseline": "baseline"}
"""Where the codes of a column came from; `baseline` is the task's trivial answer."""


@dataclass(frozen=True)
class TaskReport:
    """One task. `metrics`: column -> metric name -> value, over `rows` rows.

    `codes`: column -> statistic -> value; 'used' is the share of the codebook, 'perplexity' of the code frequencies,
    'nats per code' what the oracle's codes cost the prior (`masked`: those that a random mask hides), 'agreement' the
    share of codes in which the prior's sample is the oracle's, 'distinct' the number of different codes over the number
    of rows. `images_per_second` is the speed of complete answers with codes from `timed`: the prior, or without a
    trained one the last column of the model.
    """

    rows: int
    metrics: Mapping[str, Mapping[str, float]]
    codes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    images_per_second: float | None = None
    timed: str = "prior"

    @property
    def columns(self) -> list[str]:
        return [name for name in TITLES if name in self.metrics or name in self.codes]

    def lines(self) -> Iterator[tuple[str, dict[str, str]]]:
        """(label, column -> text) of every line of the table."""
        for name in _names(self.metrics):
            if "/" in name:  # details, such as the values of single classes, are for files
                continue
            yield name, {c: _number(values[name]) for c, values in self.metrics.items() if name in values}
        for name in _names(self.codes):
            show = _percent if name.split("/")[0] in ("used", "agreement", "distinct") else _number
            yield f"codes: {name}", {c: show(values[name]) for c, values in self.codes.items() if name in values}
        if self.images_per_second is not None:
            yield "pictures per second", {self.timed: _number(self.images_per_second)}


@dataclass(frozen=True)
class Report:
    """An evaluation of several tasks on one split; `settings` say how the prior was sampled."""

    split: str
    settings: Mapping[str, Any]
    tasks: Mapping[str, TaskReport]
    codebook: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Source of the codes -> how all tasks together use the codebook: 'used' share, 'perplexity', 'dead' codes."""
    protocol: Mapping[str, Any] | None = None
    """Name and options of the published protocol that measured, or None for the tasks' own metrics."""

    def to_dict(self) -> dict[str, Any]:
        return _finite(asdict(self))

    def to_json(self) -> str:
        """JSON text; values that are not finite become null."""
        return json.dumps(self.to_dict(), indent=1)

    def flat(self) -> dict[str, float]:
        """`task/column/name` -> value, for logs and trackers; values that are not finite are left out."""
        found: dict[str, float] = {}
        for task, report in self.tasks.items():
            for column, values in report.metrics.items():
                found |= {f"{task}/{column}/{name}": value for name, value in values.items()}
            for column, values in report.codes.items():
                found |= {f"{task}/{column}/codes/{name}": value for name, value in values.items()}
            if report.images_per_second is not None:
                found[f"{task}/images_per_second"] = report.images_per_second
        for column, values in self.codebook.items():
            found |= {f"codebook/{column}/{name}": value for name, value in values.items()}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def table(self) -> Table:
        """A rich table: metrics down, code sources across, one section a task."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        columns = [c for c in TITLES if any(c in report.columns for report in self.tasks.values())]
        by = f" · protocol {self.protocol['name']}" if self.protocol else ""
        table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"split {self.split}{by}", title_justify="left")
        table.add_column("codes from", style="dim")
        for column in columns:
            table.add_column(TITLES[column], justify="right", style="bold" if column == "prior" else "")
        for task, report in self.tasks.items():
            table.add_section()
            table.add_row(f"[bold cyan]{task}[/] · {report.rows} rows")
            for label, cells in report.lines():
                table.add_row(f"  {label}", *[cells.get(column, "") for column in columns])
        if len(self.tasks) > 1 and self.codebook:
            table.add_section()
            table.add_row("[bold cyan]codebook[/] · all tasks")
            for label in _names(self.codebook):
                show = _percent if label.split("/")[0] == "used" else _number
                cells = {c: show(values[label]) for c, values in self.codebook.items() if label in values}
                table.add_row(f"  {label}", *[cells.get(column, "") for column in columns])
        return table


def _names(columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for values in columns.values() for name in values))


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _percent(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "–"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
