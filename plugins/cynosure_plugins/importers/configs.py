"""The YAML files that lie beside a checkpoint, and telling them from the checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cynosure.config.yaml import parse_yaml
from cynosure.errors import CheckpointError, ConfigError
from cynosure_plugins.importers.torch_file import TorchFile

PYTORCH = (b"PK", b"\x80")
"""How files begin that PyTorch has written: zip archives, and before version 1.6 pickles."""
MISSING = object()


@dataclass(frozen=True)
class Settings:
    """What a configuration says, by dotted paths."""

    path: Path
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """The value under a dotted key, or the default."""
        found: Any = self.values
        for name in key.split("."):
            found = found.get(name, MISSING) if isinstance(found, Mapping) else MISSING
            if found is MISSING:
                return default
        return found

    def number(self, key: str) -> int:
        """A whole number from 1 on. Raises CheckpointError where there is none."""
        found = self.get(key)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise CheckpointError(f"{self.path} does not say {key}: is it the configuration of this checkpoint?")
        return found

    def named(self, key: str) -> str:
        """The last part of a class's name, such as 'GPT' of 'taming.modules.transformer.mingpt.GPT'."""
        return str(self.get(key, "")).rpartition(".")[2]


def read_files(files: Sequence[Path], but: Collection[Path] = ()) -> tuple[list[TorchFile], list[Settings]]:
    """Checkpoints and configurations, told apart by what is in them; files of `but` are left out.

    Raises CheckpointError for other files, and where there is no checkpoint.
    """
    checkpoints, settings = [], []
    for file in files:
        if file in but:
            continue
        if not file.is_file():
            raise CheckpointError(f"there is no file {file}.")
        with file.open("rb") as opened:
            start = opened.read(2)
        if start.startswith(PYTORCH):
            checkpoints.append(TorchFile(file))
        else:
            settings.append(_settings(file))
    if not checkpoints:
        raise CheckpointError(f"{', '.join(map(str, files))}: give the checkpoint too, not only what lies beside it.")
    return checkpoints, settings


def _settings(file: Path) -> Settings:
    try:
        values = parse_yaml(file.read_bytes().decode(), str(file)).data
    except (UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"{file} is neither a PyTorch checkpoint nor its configuration in YAML.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is neither a PyTorch checkpoint nor its configuration: it has no keys.")
    return Settings(file, values)
