"""The launch files of the documentation are what accelerate reads, and what training accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from cynosure.train import sharding

FOLDER = Path(__file__).parents[2] / "docs" / "launch"
FILES = sorted(FOLDER.glob("*.yaml"))


def launched(file: Path) -> Any:
    """The arguments of `accelerate launch --config_file FILE -m cynosure train my.yaml`, completed by accelerate."""
    line = ["--config_file", str(file), "-m", "cynosure", "train", "my.yaml"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(line))
    return arguments


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, arguments = load_config_from_file(str(file)), launched(file)
    sharded = file.stem.startswith("fsdp")
    assert config.distributed_type.value == ("FSDP" if sharded else "MULTI_GPU")
    assert (arguments.num_processes, arguments.num_machines) == ((32, 4) if "several" in file.stem else (8, 1))
    for name, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    assert sharding.wanted() == sharded
    sharding.check_settings()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_setting_of_fsdp_exists(file: Path) -> None:
    """accelerate passes over settings of FSDP that it does not know without a word."""
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(yaml.safe_load(file.read_text()).get("fsdp_config", {})) <= known


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_command_in_the_file_names_it(file: Path) -> None:
    assert f"accelerate launch --config_file docs/launch/{file.name} " in file.read_text()
