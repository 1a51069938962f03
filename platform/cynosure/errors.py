"""Errors a user can act on: one sentence that says what to do. The command line prints them without a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class CynosureError(Exception):
    """Something that the user can put right; the command line exits with `exit_code`."""

    exit_code = 2


class PluginError(CynosureError):
    """A plugin cannot be loaded, or a component cannot be registered."""


class DataError(CynosureError):
    """A dataset, a split or a row is missing or not what it should be."""


class CheckpointError(CynosureError):
    """A checkpoint is missing, incomplete, or does not belong to this model."""


class TrainingError(CynosureError):
    """Training cannot go on, for example because the loss is not finite."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a file: `where` is 'file:line:col' (or '--set key', or ''), `path` is the dotted key."""

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.where, f"{self.path}:" if self.path else "", self.message) if part)


class ConfigError(CynosureError):
    """Every mistake found in a configuration, one line each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """ ", did you mean 'x'?" for the closest candidate, or '' when none is close."""
    close = get_close_matches(str(name), list(candidates), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, name: str, candidates: Iterable[str]) -> str:
    """A message for a name that does not exist: what was meant, perhaps, and what there is."""
    names = sorted(candidates)
    there_is = f"there is {', '.join(names)}" if names else "there is none"
    hint = did_you_mean(name, names)
    return f"no {kind} is named '{name}'{hint or ';'} {'(' + there_is + ')' if hint else there_is}"
