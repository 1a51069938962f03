"""A model's way from a picture to its answer as one file that other programs run.

Formats are plugins (hook cynosure_export); this is what they share. Shapes: H W pixels of a picture of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from cynosure import __version__
from cynosure.core.contracts import Base
from cynosure.core.records import Codes
from cynosure.errors import CynosureError, unknown
from cynosure.progress import current_progress
from cynosure.run.predictor import Predictor
from cynosure.run.steering import spec_of
from cynosure.run.styles import name_of, style_codes
from cynosure.train.checkpoint import write_whole

INPUT, OUTPUT = "picture", "answer"
"""Names of the one input and the one output where the format knows names."""
TRACED = (64, 96)
SIZES = ((131, 57), (40, 200))
"""(H, W) at which a file is compared with the model; other than the one that it was traced at."""
TOLERANCE = 1e-4
"""Largest difference allowed there, of levels in [0, 1]: a fortieth of a level of 8 bits."""

Run = Callable[[torch.Tensor], torch.Tensor]


def export(
    model: Predictor,
    path: Path,
    task: str | None = None,
    format: str | None = None,
    style: int | Sequence[int] | str | None = None,
) -> Path:
    """Write the way of a task, by default the only one, to `path`; without a format the ending of `path` says which. Of
    a model with codes one style is written: a number, L D of them, or such a text as '3,0,1,2'.

    Raises CynosureError for a format that no plugin writes, for a task or model that cannot be written, and where the
    file does not answer as the model does; there is then no file, or what was there before.
    """
    formats = model.host.export_formats()
    if format is None:
        format = next((name for name, ending in formats.items() if path.suffix.lower() == ending), None)
    if format is None:
        endings = ", ".join(f"{ending} ({name})" for name, ending in formats.items())
        raise CynosureError(f"{path} does not say in which format: end it in one of {endings}, or name a --format")
    codes = None if style is None else style_codes(style, spec_of(model.model)).ravel().tolist()
    written = model.host.export(model, format, path, model.task(task).name, codes)
    if written is None:
        raise CynosureError(f"{unknown('format', format, formats)}; a plugin adds one by the hook cynosure_export")
    return written


def picture_network(model: Predictor, task: str | None = None, style: Sequence[int] | None = None) -> nn.Module:
    """What is written: a network on the CPU, from a picture float32 [1, 3, H, W] in [0, 1] to its answer in the same
    form.

    Raises CynosureError for a task without such a way (`Task.network`), and for a model whose answers need codes if no
    style says which, or if it has no such style.
    """
    chosen = model.task(task)
    base = deepcopy(model.model.base).cpu().float().eval().requires_grad_(False)
    answering = _OfTask(base, chosen.name)
    network = chosen.network(answering)
    if network is None:
        raise CynosureError(
            f"task {chosen.name} cannot be exported: it has no network from a picture to a picture (Task.network)"
        )
    answering.vectors = _style_vectors(model, style)
    return network.eval()


def _style_vectors(model: Predictor, style: Sequence[int] | None) -> torch.Tensor | None:
    """What the base gets of a style, [1, N, d]; nothing where the model has no codes."""
    tokenizer = model.model.tokenizer
    if style is None and tokenizer is None:
        return None
    if style is None:
        raise CynosureError(
            "this model cannot be exported: it answers from codes, which a prior writes one after another; "
            "export one of its styles (--style 3), or a model that was trained without a tokenizer"
        )
    codes = torch.from_numpy(style_codes(style, spec_of(model.model)))[None]
    assert tokenizer is not None
    return deepcopy(tokenizer).cpu().float().vectors(Codes(codes, tokenizer.spec))


class _OfTask(nn.Module):
    """A base model for one task, with the same code vectors [1, N, d] for every picture, or with none."""

    vectors: torch.Tensor | None

    def __init__(self, base: Base, task: str) -> None:
        super().__init__()
        self.base, self.task = base, task
        self.register_buffer("vectors", None)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.base({"image": image}, self.vectors, self.task)


def metadata(model: Predictor, task: str | None = None, style: Sequence[int] | None = None) -> dict[str, str]:
    """What a file should say about itself, where its format has a place for it."""
    chosen = model.task(task)
    height, width = chosen.image_size
    return {
        "cynosure": __version__,
        "task": chosen.name,
        **({} if style is None else {"style": name_of(style, ",")}),
        "model_size": f"{height}x{width}",
        INPUT: "float32 [1, 3, height, width], RGB in 0..1",
        OUTPUT: "float32 [1, 3, height, width], RGB in 0..1",
    }


def traced(network: nn.Module) -> torch.export.ExportedProgram:
    """The network as a program for pictures of any height and width; CynosureError where torch cannot trace it."""
    axes = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    try:
        return torch.export.export(network, (_picture(TRACED),), dynamic_shapes=(axes,))
    except Exception as error:  # torch has no common class for what it cannot trace, and plugins' code runs here
        reason = str(error).strip().splitlines()[0]
        raise CynosureError(f"torch.export cannot trace this model for pictures of any size: {reason}") from error


def write_verified(
    path: Path, network: nn.Module, write: Callable[[Path], object], open_file: Callable[[Path], Run]
) -> Path:
    """Write a file whole or not at all, and only if it answers as the network does; says how far the two are apart.

    `open_file` gives the function that the file is, from picture to answer. Raises CynosureError where they differ by
    more than TOLERANCE.
    """

    def checked(file: Path) -> None:
        write(file)
        run = open_file(file)
        difference = max(_difference(network, run, size) for size in SIZES)
        if not difference <= TOLERANCE:
            raise CynosureError(
                f"{path} was not written: its answers differ from the model's by {difference:.2g} of 1; "
                f"another version of the format's packages may do better"
            )
        sizes = " and ".join(f"{height} x {width}" for height, width in SIZES)
        current_progress().say(f"largest difference from the model: {difference:.1e} of 1 ({sizes} pixels)")

    write_whole(path, checked)
    return path


@torch.inference_mode()
def _difference(network: nn.Module, run: Run, size: tuple[int, int]) -> float:
    picture = _picture(size)
    return float((network(picture) - run(picture)).abs().max())


def _picture(size: tuple[int, int]) -> torch.Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
