"""UViM's released checkpoints: stage I (oracle and base model) and stage II (the language model)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

import numpy as np

from cynosure import hookimpl
from cynosure.core.contracts import Importer, PartConfig
from cynosure.core.records import Imported, LazyTensor
from cynosure.errors import CheckpointError
from cynosure.train.checkpoint import differences
from cynosure_plugins.datasets.coco_classes import CATEGORY_IDS, CLASSES
from cynosure_plugins.importers.flax_vit import ANY, modern
from cynosure_plugins.importers.npz import Npz, guess
from cynosure_plugins.importers.uvim_sizes import Stage1, Stage2, side

NYU = {"train": "train", "validation": "validation", "test": "validation"}
DATA: dict[str, dict[str, Any]] = {
    "panoptic": {"coco": {"name": "coco_panoptic", "root": "data/coco", "categories": "coco", "holdout": 4096}},
    "depth": {"nyu": {"name": "images", "source": "data/nyu_depth_v2", "splits": NYU}},
    "colorization": {"imagenet": {"name": "images", "source": "data/imagenet2012", "holdout": 4096}},
}
"""Each task's data as UViM splits them; `--set` says where they lie."""

RELEASED_AS = {"panoptic": "panoptic", "depth": "depth", "colorization": "color"}
"""How the names of the released files begin, by our task."""


@final
class UViM(Importer):
    """`{panoptic,depth,color}_stage{I,II}_params.npz` of Kolesnikov et al. 2022, of these or any other sizes.

    Stage II is the same for every task: nothing in it says which. The code grid of stage I is in no array; it is what
    stage II says, else half the patch grid on each side, as released.
    """

    class Config(PartConfig):
        pass

    TESTING: ClassVar = {"files": lambda folder: _write_tiny(folder)}

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, files: Sequence[Path]) -> Imported:
        archives = [Npz(file, _rename) for file in files]
        stages = [_stage(archive) for archive in archives]
        first, second = _of(stages, Stage1), _of(stages, Stage2)
        problems = [text for pair in zip(archives, stages, strict=True) if (text := _problems(*pair))]
        if first and second and _pixels(first) != _pixels(second):
            problems.append(f"stage I reads pictures of {_pixels(first)} pixels, stage II of {_pixels(second)}.")
        if problems:
            raise CheckpointError("\n".join(problems))
        tensors: dict[str, LazyTensor] = {}
        for archive, stage in zip(archives, stages, strict=True):
            tensors |= archive.tensors(stage.table())
        return Imported(recipe(first, second), tensors, tuple(_notes(first, files)))


def _rename(name: str) -> str:
    """The names of today's big_vision for those of any of its checkpoints."""
    return modern(name).replace("params/Encoder/", "params/encoder/").replace("params/Decoder/", "params/decoder/")


def _stage(archive: Npz) -> Stage1 | Stage2:
    if "params/decoder/EmbedTargets/embedding" in archive.shapes or "params/EmbedPatches/kernel" in archive.shapes:
        return Stage2.of(archive.shapes)
    if stage := Stage1.of(archive.shapes):
        return stage
    names = [name.removeprefix("params/") for name in archive.shapes]
    raise CheckpointError(f"{archive.path} is no UViM checkpoint: {guess(names)}.")


StageT = TypeVar("StageT", Stage1, Stage2)


def _of(stages: Sequence[Stage1 | Stage2], kind: type[StageT]) -> StageT | None:
    found = [stage for stage in stages if isinstance(stage, kind)]
    if len(found) > 1:
        raise CheckpointError("these files are of the same stage: give one of stage I, one of stage II, or both.")
    return found[0] if found else None


def _problems(archive: Npz, stage: Stage1 | Stage2) -> str:
    """What is wrong with the names and shapes of a file, as one sentence, or ''."""
    found = differences(stage.shapes(), archive.shapes)
    if stage.tokens != ANY and not side(stage.tokens):
        found.append(f"{stage.tokens} patches are not the square picture that UViM reads")
    if stage.dim != ANY and stage.heads > 0 and stage.dim % stage.heads:
        found.append(f"width {stage.dim} does not divide into {stage.heads} heads")
    what = "UViM language model" if isinstance(stage, Stage2) else f"UViM model for {stage.task}"
    return f"{archive.path} is no complete {what}: {'; '.join(found)}." if found else ""


def _notes(first: Stage1 | None, files: Sequence[Path]) -> Iterator[str]:
    if first is None:
        return
    if "semantics" in first.channels and not _is_coco(first):
        yield "The file does not name its classes: name them with --set tasks.panoptic.classes."
    told = {ours: theirs for ours, theirs in RELEASED_AS.items() if any(f.name.startswith(theirs) for f in files)}
    for theirs in [theirs for ours, theirs in told.items() if ours != first.task]:
        yield f"A file is named {theirs}_..., stage I is of {first.task}: stage II itself does not say its task."


def recipe(first: Stage1 | None, second: Stage2 | None) -> dict[str, Any]:
    """The model, and the task as UViM treats it: pictures resized to a square without antialiasing, and so on."""
    model: dict[str, Any] = {}
    fields: dict[str, Any] = {"model": model}
    if first:
        fields |= {"image_size": _pixels(first), "data": DATA[first.task], "eval": {"batch_size": 4}}
        options = _task_options(first) | {"data": next(iter(DATA[first.task])), "resize": "uvim"}
        fields["tasks"] = {first.task: options}
        model |= _stage1_model(first, second.length if second else 0)
    if second:
        fields |= {"image_size": _pixels(second), "train": {"stages": ["codes", "prior"]}}
        model["prior"] = _prior(second)
    return fields


def _stage1_model(sizes: Stage1, length: int) -> dict[str, Any]:
    transformer = {"patch": sizes.patch, "dim": sizes.dim, "heads": sizes.heads, "mlp_dim": sizes.mlp_dim}
    codes = side(length) or max(1, side(sizes.tokens) // 2)
    quantizer = {"name": "vq", "vocab_size": sizes.vocab_size, "dim": sizes.code_dim}
    oracle = {"name": "vit_oracle", "depth": sizes.oracle_depth, "code_grid": [codes, codes], "quantizer": quantizer}
    base = {"name": "vit", "depth": sizes.base_depth}
    return {"tokenizer": oracle | transformer, "base": base | transformer, "code_dropout": 1.0}


def _prior(sizes: Stage2) -> dict[str, Any]:
    transformer = {"dim": sizes.dim, "heads": sizes.heads, "mlp_dim": sizes.mlp_dim}
    encoder = {"name": "vit", "patch": sizes.patch, "depth": sizes.encoder_depth, **transformer}
    own = {"name": "autoregressive", "depth": sizes.decoder_depth, "start_code": True, "task_tokens": False}
    return {**own, **transformer, "encoder": encoder}


def _task_options(sizes: Stage1) -> dict[str, Any]:
    channels = sizes.channels
    if sizes.task == "depth":
        return {"encoding": "bins", "bins": channels["depth"], "min_depth": 0.001, "max_depth": 10.0}
    if sizes.task == "colorization":
        return {"encoding": "rgb"}
    classes, ids = (CLASSES, CATEGORY_IDS) if _is_coco(sizes) else (_nameless(channels["semantics"] - 1), ())
    own = {"max_instances": channels["instances"], "stuff": "number", "id_order": "y", "crowds": "segment"}
    return {"classes": [list(c) for c in classes], "category_ids": list(ids), **own}


def _is_coco(sizes: Stage1) -> bool:
    return sizes.channels["semantics"] == len(CLASSES) + 1


def _nameless(count: int) -> tuple[tuple[str, bool], ...]:
    """Classes of a set that is not COCO; the checkpoint does not name them."""
    return tuple((f"class {i + 1}", True) for i in range(count))


def _pixels(sizes: Stage1 | Stage2) -> int:
    return side(sizes.tokens) * sizes.patch


def _write_tiny(folder: Path) -> list[Path]:
    """Both stages of a tiny depth model with random values."""
    sizes = {"patch": 4, "tokens": 16, "dim": 8, "heads": 2, "mlp_dim": 16}
    first = Stage1("depth", {"depth": 6}, oracle_depth=1, base_depth=2, vocab_size=5, code_dim=8, **sizes)
    second = Stage2(encoder_depth=1, decoder_depth=2, length=4, vocab_size=6, **sizes)
    rng = np.random.default_rng(0)
    files = [folder / "stageI.npz", folder / "stageII.npz"]
    stages: tuple[Stage1 | Stage2, ...] = (first, second)
    for file, stage in zip(files, stages, strict=True):
        arrays: dict[str, Any] = {
            name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in stage.shapes().items()
        }
        np.savez(file, **arrays)
    return files


@hookimpl
def cynosure_register(register: Any) -> None:
    register.importer("uvim", UViM)
