"""RQ-VAE's and RQ-Transformer's released checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, final

from cynosure import hookimpl
from cynosure.core.contracts import Importer, PartConfig
from cynosure.core.records import Imported
from cynosure.errors import CheckpointError
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers import vqgan_names
from cynosure_plugins.importers.archive import Archive, Part, Table, random_arrays
from cynosure_plugins.importers.configs import Settings, read_files
from cynosure_plugins.importers.npz import guess
from cynosure_plugins.importers.recipes import LABELS, TASK, TEXT_TASK, TEXTS, joined, prior_of
from cynosure_plugins.importers.rq_transformer_names import Sizes, prior, transformer
from cynosure_plugins.importers.rq_transformer_text import VocabularyFiles
from cynosure_plugins.importers.torch_file import TorchFile
from cynosure_plugins.importers.vqgan import write_files
from cynosure_plugins.importers.vqgan_sizes import image_side, read_config, recipe

FIRST, SECOND = "RQ-VAE", "RQ-Transformer"
TYPES = {"rq-vae": FIRST, "rq-transformer": SECOND}
COPIES = r"quantizer\.codebooks\.\d+\.embed_ema$"
"""Averages of vectors: codewords times counts, which a file has too."""
SHARED_COPIES = rf"{COPIES}|quantizer\.codebooks\.[1-9]"
BOOK = "quantizer.codebooks."


class Release:
    """Checkpoints and their configurations, each with its own, and the files of a vocabulary."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.vocabulary = VocabularyFiles.among(files)
        checkpoints, configurations = read_files(files, but=self.vocabulary.all)
        self.first = self._one([each for each in checkpoints if _kind(each) == FIRST], FIRST)
        self.second = self._one([each for each in checkpoints if _kind(each) == SECOND], SECOND)
        self._settings: dict[str, list[Settings]] = {kind: [] for kind in TYPES.values()}
        for each in configurations:
            if (kind := TYPES.get(each.get("arch.type"))) is None:
                raise CheckpointError(f"{each.path} configures no {FIRST} and no {SECOND}: its arch.type is neither.")
            self._settings[kind].append(each)

    @staticmethod
    def _one(found: list[TorchFile], kind: str) -> TorchFile | None:
        if len(found) > 1:
            raise CheckpointError(f"{', '.join(str(each.path) for each in found)}: give one {kind}, not several.")
        return found[0] if found else None

    def settings(self, kind: str, checkpoint: TorchFile) -> Settings:
        """The configuration of the checkpoint. Raises CheckpointError where there is not one."""
        found = self._settings[kind]
        if len(found) != 1:
            raise CheckpointError(
                f"{checkpoint.path} is an {kind}: give its config.yaml too, one (found {len(found)})."
            )
        return found[0]


def _kind(checkpoint: TorchFile) -> str:
    names = [name.removeprefix("module.") for name in checkpoint.shapes]
    if any(name.startswith("body_transformer.") for name in names):
        return SECOND
    if any(name.startswith(BOOK) for name in names):
        return FIRST
    raise CheckpointError(f"{checkpoint.path} is no {FIRST} and no {SECOND}: {guess(list(checkpoint.shapes))}.")


def _part(checkpoint: TorchFile, but: str) -> Archive:
    """The arrays of a state dict; training on several GPUs puts 'module.' before names."""
    return Part(checkpoint, "module." if all(n.startswith("module.") for n in checkpoint.shapes) else "", but)


def _notes(checkpoint: TorchFile) -> Iterator[str]:
    if "state_dict_ema" in checkpoint.keys:
        yield f"{checkpoint.path} has averaged weights too (state_dict_ema); the model has those of the last step."


def _first_stage(checkpoint: TorchFile, settings: Settings, task: str) -> Imported:
    """Tokenizer and base."""
    options = {key: settings.get(f"arch.hparams.{key}", default) for key, default in DEFAULTS.items()}
    shared, decay = bool(options["shared_codebook"]), float(options["decay"])
    archive = _part(checkpoint, SHARED_COPIES if shared else COPIES)
    archive.require([f"{BOOK}0.weight", f"{BOOK}0.cluster_size_ema"], FIRST)
    config = read_config(archive, FIRST)
    rows, dim = archive.shapes[f"{BOOK}0.weight"]
    depth = _part(checkpoint, COPIES).count(BOOK)
    latent = archive.shapes["quant_conv.weight"][0]
    side = image_side(config, settings, "arch.ddconfig")
    fold = isqrt(dim // latent) if latent else 0
    told = settings.get("arch.hparams.code_shape")
    cells = side // config.factor // max(fold, 1)
    archive.refuse(_unlike_ours(options, told, [cells, cells, depth], dim, latent * fold**2), FIRST)
    table = {
        **vqgan_names.tokenizer(task, config, latent),
        **vqgan_names.base(task, config, latent),
        **vqgan_names.residual_quantizer(1 if shared else depth, decay, rows - 1, dim),
    }
    if problems := archive.problems(table, FIRST):
        raise CheckpointError("\n".join(problems))
    restarts = options["restart_unused_codes"]
    quantizer = {
        **{"name": "rq", "vocab_size": rows - 1, "dim": dim, "depth": depth, "shared": shared, "decay": decay},
        **{"commitment": options["latent_loss_weight"], "min_count": round(1 / (1 - decay)) if restarts else 0},
        "immediate": shared,
    }
    loss = {"l1": 1.0, "l2": 0.0} if options["loss_type"] == "l1" else {"l1": 0.0, "l2": 1.0}
    fields = recipe(config, side, quantizer, loss, fold, task)
    return Imported(fields, archive.tensors(table), tuple(_notes(checkpoint)))


DEFAULTS = {
    **{"bottleneck_type": "rq", "shared_codebook": False, "decay": 0.99, "restart_unused_codes": False},
    **{"loss_type": "l1", "latent_loss_weight": 0.25},
}
"""What `arch.hparams` is taken to say where it is silent."""


def _unlike_ours(options: Mapping[str, Any], told: Any, shape: list[int], dim: int, folded: int) -> Iterator[str]:
    """What keeps a residual quantizer from being quantizer rq."""
    if options["bottleneck_type"] != "rq":
        yield f"its bottleneck is {options['bottleneck_type']}, not rq"
    if dim != folded:
        yield f"its codewords of width {dim} are no square of latents"
    elif told is not None and list(told) != shape:
        yield f"its configuration says codes {told}, the arrays {shape}"


def _second_stage(checkpoint: TorchFile, settings: Settings, vocabulary: VocabularyFiles) -> Imported:
    """The prior."""
    archive = _part(checkpoint, r"tok_emb\.offsets$|.*\.attn\.mask$")
    sizes = Sizes.of(archive, settings, SECOND)
    table = transformer(sizes)
    if problems := archive.problems(table, SECOND):
        raise CheckpointError("\n".join(problems))
    tensors = archive.tensors(table)
    if sizes.tokens > 1:
        tensors["prior.encoder.vocabulary"] = vocabulary.tensor(checkpoint.path, settings, sizes.classes)
    elif vocabulary.all:
        raise CheckpointError(f"{checkpoint.path} reads no texts: leave out {', '.join(map(str, vocabulary.all))}.")
    condition = TEXTS if sizes.tokens > 1 else LABELS if sizes.classes > 1 else {}
    fields = prior_of(prior(sizes, settings), condition, _sampling(settings))
    return Imported(fields, tensors, tuple(_notes(checkpoint)))


def _sampling(settings: Settings) -> dict[str, Any]:
    """How a release draws codes; its own files and those of the repository say it in different places."""
    told = settings.get("sampling", settings.get("experiment.sample", {}))
    found = {"temperature": told.get("temp", 1.0), "top_k": told.get("top_k"), "top_p": told.get("top_p")}
    return {name: value for name, value in found.items() if value is not None}


@final
class RQVAE(Importer):
    """`model.pt` and `config.yaml` of kakaobrain's RQ-VAE (Lee et al. 2022), of the released sizes or any other."""

    class Config(PartConfig):
        pass

    TESTING: ClassVar = {"files": lambda folder: _write_first(folder)}

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, files: Sequence[Path]) -> Imported:
        release = Release(files)
        if release.first is None or release.second is not None or release.vocabulary.all:
            raise CheckpointError(f"give an {FIRST} alone; `cynosure convert rq_transformer` takes both stages.")
        return _first_stage(release.first, release.settings(FIRST, release.first), TASK)


@final
class RQTransformer(Importer):
    """`model.pt` and `config.yaml` of kakaobrain's RQ-Transformer (Lee et al. 2022), best with those of its RQ-VAE.

    Class-conditional models, unconditional ones, and those for text, with the two files of their BPE vocabulary.
    """

    class Config(PartConfig):
        pass

    TESTING: ClassVar = {"files": lambda folder: [*_write_first(folder), *_write_second(folder)]}

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, files: Sequence[Path]) -> Imported:
        release = Release(files)
        if release.second is None:
            raise CheckpointError(f"there is no {SECOND} among these files; `cynosure convert rqvae` takes an {FIRST}.")
        told = release.settings(SECOND, release.second)
        second = _second_stage(release.second, told, release.vocabulary)
        if release.first is None:
            return second
        task = TEXT_TASK if TEXT_TASK in second.recipe.get("tasks", {}) else TASK
        first = _first_stage(release.first, release.settings(FIRST, release.first), task)
        return joined(first, second)


def _write_first(folder: Path) -> list[Path]:
    """A tiny RQ-VAE with random values."""
    config = VQGANConfig(channels=32, multipliers=(1, 1), blocks=1, attention=(1,), z_channels=8)
    table: Table = vqgan_names.tokenizer(TASK, config, 4) | vqgan_names.base(TASK, config, 4)
    table |= vqgan_names.residual_quantizer(2, 0.99, 6, 4)
    ddconfig = {"resolution": 8, "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "z_channels": 8}
    ddconfig["attn_resolutions"] = [4]
    arch = {"type": "rq-vae", "hparams": {"code_shape": [4, 4, 2], "decay": 0.99}, "ddconfig": ddconfig}
    return write_files(folder, random_arrays(table), {"arch": arch}, "first")


def _write_second(folder: Path) -> list[Path]:
    """A tiny class-conditional RQ-Transformer for it."""
    return _write_transformer(folder, classes=3, tokens=1)


def _write_text(folder: Path) -> list[Path]:
    """A tiny RQ-Transformer for text instead, and its vocabulary."""
    tokens = ["[PAD]", "[UNK]", "r", "e", "a</w>", "d</w>", "re", "red</w>"]
    vocabulary, merges = folder / "bpe-16k-vocab.json", folder / "bpe-16k-merges.txt"
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\nr e\nre d</w>\n")
    return [*_write_transformer(folder, classes=len(tokens), tokens=5), vocabulary, merges]


def _write_transformer(folder: Path, classes: int, tokens: int) -> list[Path]:
    sizes = Sizes(8, body=1, head=1, heads=2, hidden=32, L=16, D=2, K=6, classes=classes, code_dim=4, tokens=tokens)
    blocks = {"n_layer": 1, "block": {"n_head": 2}}
    arch = {"type": "rq-transformer", "block_size": [4, 4, 2], "embed_dim": 8, "vocab_size_cond": classes}
    arch |= {"body": blocks, "head": blocks, "cumsum_depth_ctx": True, "shared_cls_emb": True}
    return write_files(folder, random_arrays(transformer(sizes)), {"arch": arch}, "second")


@hookimpl
def cynosure_register(register: Any) -> None:
    register.importer("rqvae", RQVAE)
    register.importer("rq_transformer", RQTransformer)
