"""Runs that recompute, compile or compute in bfloat16 train the same model by other means."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Project, log, same, weights

from cynosure.train import checkpoint as files


def test_recomputing_changes_nothing(project: Project, finished_run: Path) -> None:
    """Codebooks included: a quantizer that ran twice would have counted its vectors twice."""
    project.train("run", "train.checkpointing=true")
    assert same(weights(project.folder / "run"), weights(finished_run))
    assert log(project.folder / "run") == log(finished_run)


@pytest.mark.parametrize("more", [(), ("train.checkpointing=true",)])
def test_compiling_changes_nothing_and_compiles_each_kind_of_block_once(
    project: Project, finished_run: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """The oracle, then the base and the prior's encoder, which are alike, then the prior's decoder; not once a task."""
    from torch._dynamo.backends.debugging import aot_eager

    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    torch.compiler.reset()
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))
    project.train("run", "train.compile=true", *more)
    assert len(graphs) == 3
    compiled, plain = weights(project.folder / "run"), weights(finished_run)
    assert compiled.keys() == plain.keys(), "compiling must not change names"
    for name, tensor in compiled.items():
        torch.testing.assert_close(tensor, plain[name], atol=1e-5, rtol=1e-4, msg=name)


def test_optimizers_remember_in_float32_whatever_the_precision(project: Project) -> None:
    project.train("run", "train.precision=bf16")
    for checkpoint in ("0-codes-00000002", "1-prior-00000002"):
        state, _ = files.read_tensors(project.folder / "run/checkpoints" / checkpoint / files.OPTIMIZER)
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
