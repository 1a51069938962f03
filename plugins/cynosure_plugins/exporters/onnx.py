"""Format `onnx`: a graph that ONNX Runtime and other engines run without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from cynosure import hookimpl
from cynosure.errors import CynosureError
from cynosure.run.export import INPUT, OUTPUT, metadata, picture_network, traced, write_verified

FORMATS = {"onnx": ".onnx"}


@hookimpl
def cynosure_export(model: Any, format: str, path: Path, task: str | None, style: Sequence[int] | None) -> Path | None:
    if format not in FORMATS:
        return None
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ImportError:
            raise CynosureError(
                f"format onnx needs the package {package}: pip install -e '.[export]' in the folder of Cynosure"
            ) from None
    network = picture_network(model, task, style)
    axes = ({2: "height", 3: "width"},)
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamic_shapes": axes}
    program = torch.onnx.export(traced(network), (), None, dynamo=True, verbose=False, **names)
    assert program is not None
    program.model.metadata_props.update(metadata(model, task, style))
    return write_verified(path, network, program.save, _open)


def _open(file: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda picture: torch.from_numpy(session.run([OUTPUT], {INPUT: picture.numpy()})[0])
