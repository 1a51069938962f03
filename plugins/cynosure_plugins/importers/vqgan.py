"""VQGAN's released checkpoints: tokenizer and decoder, alone or with the transformer trained on their codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch
import yaml

from cynosure import hookimpl
from cynosure.core.contracts import Importer, PartConfig
from cynosure.core.records import Imported
from cynosure.errors import CheckpointError
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.importers import gpt_names, vqgan_conditions, vqgan_names
from cynosure_plugins.importers.archive import Archive, Part, Table, random_arrays
from cynosure_plugins.importers.configs import Settings, read_files
from cynosure_plugins.importers.npz import guess
from cynosure_plugins.importers.recipes import TASK, joined, prior_of
from cynosure_plugins.importers.torch_file import TorchFile
from cynosure_plugins.importers.vqgan_conditions import SAMPLING, Condition, Sizes
from cynosure_plugins.importers.vqgan_sizes import codes_of, image_side, read_config, recipe

WHAT, TRANSFORMER = "VQGAN", "transformer of VQGAN"
UNUSED = r"loss\.|model_ema\.|colorize$|quantize\.embedding\.embed_avg$|quantize\.used$"
"""Discriminator and LPIPS, averages of latent diffusion's training, colours of label maps, averages of vectors, and the
codes in use, which the recipe names."""
DECAY = 0.99
LOSS = {"l1": 1.0, "l2": 0.0}


@final
class VQGAN(Importer):
    """Lightning `.ckpt` files of taming-transformers (Esser et al. 2021) and their project `.yaml`.

    VQModel and GumbelVQ of any sizes, latent diffusion's too, need no yaml, which tells the resolution (else 256). A
    Net2NetTransformer needs it, since heads are in no array; it may be unconditional or conditioned on classes, depth
    maps or segmentations.
    """

    class Config(PartConfig):
        pass

    TESTING: ClassVar = {"files": lambda folder: _write_tiny(folder)}

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, files: Sequence[Path]) -> Imported:
        checkpoints, configurations = read_files(files)
        if len(checkpoints) > 1 or len(configurations) > 1:
            raise CheckpointError("give one checkpoint, which holds everything, and at most one configuration.")
        checkpoint, settings = checkpoints[0], next(iter(configurations), None)
        if "transformer.tok_emb.weight" in checkpoint.shapes:
            return _with_transformer(checkpoint, settings)
        return _tokenizer(checkpoint, Part(checkpoint, but=UNUSED), settings, "model.params").imported()


class _FirstStage:
    """A tokenizer and what was read of it."""

    def __init__(
        self, archive: Archive, config: VQGANConfig, side: int, quantizer: dict[str, Any], book: Table
    ) -> None:
        self.archive, self.config, self.quantizer, self.side = archive, config, quantizer, side
        self.table = {
            **vqgan_names.tokenizer(TASK, config, quantizer["dim"]),
            **vqgan_names.base(TASK, config, quantizer["dim"]),
            **book,
        }
        self.problems = archive.problems(self.table, WHAT)
        self.notes: list[str] = []

    def imported(self) -> Imported:
        if self.problems:
            raise CheckpointError("\n".join(self.problems))
        fields = recipe(self.config, self.side, self.quantizer, LOSS)
        return Imported(fields, self.archive.tensors(self.table), tuple(self.notes))


def _tokenizer(checkpoint: TorchFile, archive: Archive, settings: Settings | None, key: str) -> _FirstStage:
    """The first stage that the arrays of `archive` are; settings under `key` describe it."""
    quantizer, book = _quantizer(checkpoint, archive, settings, key)
    config = read_config(archive, WHAT)
    stage = _FirstStage(archive, config, image_side(config, settings, f"{key}.ddconfig"), quantizer, book)
    if any(name.startswith("loss.") for name in checkpoint.shapes):
        stage.notes.append("Left out: the discriminator and the perceptual loss (loss.*), which only training needs.")
    if any(name.startswith("model_ema.") for name in checkpoint.shapes):
        stage.notes.append("Left out: averaged weights (model_ema.*); the model has those of the last step.")
    if settings is None:
        stage.notes.append(f"Without the project yaml pictures are taken to be {stage.side} x {stage.side} pixels.")
    return stage


def _quantizer(
    checkpoint: TorchFile, archive: Archive, settings: Settings | None, key: str
) -> tuple[dict[str, Any], Table]:
    """The recipe of the quantizer and its tensors."""
    used = f"{archive.prefix}quantize.used"
    if (gumbel := archive.shapes.get("quantize.embed.weight", ())) and len(gumbel) == 2:
        if used in checkpoint.shapes:
            archive.refuse(["its codes are renumbered (remap, quantize.used), which quantizer vq alone can do"], WHAT)
        kl = settings.get(f"{key}.kl_weight", 1e-8) if settings else 1e-8
        options = {"name": "gumbel", "vocab_size": gumbel[0], "dim": gumbel[1], "kl": kl}
        return options, vqgan_names.gumbel_quantizer(*gumbel)
    shape = archive.shapes.get("quantize.embedding.weight", ())
    if len(shape) != 2:
        raise CheckpointError(f"{archive.path} is no {WHAT}: {guess(list(archive.shapes))}.")
    options = {"name": "vq", "vocab_size": shape[0], "dim": shape[1], "normalize": False, "min_count": 0}
    options["commitment"] = 0.25
    if used in checkpoint.shapes:
        options["used"] = [int(code) for code in checkpoint[used]]
    if "quantize.embedding.cluster_size" in archive.shapes:
        book = vqgan_names.moving_average_quantizer(*shape, DECAY)
        return options | {"update": "ema", "decay": DECAY}, book
    return options | {"update": "gradient", "legacy_beta": True}, vqgan_names.vector_quantizer(*shape)


def _with_transformer(checkpoint: TorchFile, settings: Settings | None) -> Imported:
    if settings is None:
        raise CheckpointError(
            f"{checkpoint.path} has a transformer, and no array tells its number of heads: give the project .yaml too."
        )
    params = "model.params"
    first = _tokenizer(
        checkpoint, Part(checkpoint, "first_stage_model.", but=UNUSED), settings, f"{params}.first_stage_config.params"
    )
    archive = Part(checkpoint, "transformer.", but=r"blocks\.\d+\.attn\.mask$")
    archive.require(["tok_emb.weight", "pos_emb", "blocks.0.mlp.0.weight"], TRANSFORMER)
    (V, d), (_, T, _) = archive.shapes["tok_emb.weight"], archive.shapes["pos_emb"]
    sizes = Sizes(V, d, T)
    hidden, depth = archive.shapes["blocks.0.mlp.0.weight"][0], archive.count("blocks.")
    K, L = codes_of(first.quantizer), (first.side // first.config.factor) ** 2
    heads = settings.number(f"{params}.transformer_config.params.n_head")
    condition = _condition(checkpoint, settings, first.side, sizes)
    archive.refuse(_unlike_ours(settings, sizes, K, L, heads, condition), TRANSFORMER)
    assert condition is not None
    table = gpt_names.gpt(depth, d, hidden, K, V, T, L, condition.length) | condition.table
    first.problems += [*condition.problems, *archive.problems(table, TRANSFORMER)]
    told = first.imported()
    unmasked = settings.get(f"{params}.transformer_config.params.n_unmasked", 0)
    prior = {
        **{"name": "gpt", "dim": d, "depth": depth, "heads": heads, "mlp_dim": hidden},
        "dropout": settings.get(f"{params}.transformer_config.params.resid_pdrop", 0.0),
        "keep": settings.get(f"{params}.pkeep", 1.0),
        "task_tokens": condition.encoder is None,
        **({"encoder": dict(condition.encoder)} if condition.encoder else {}),
        **({"two_way_prefix": True} if unmasked > 1 else {}),
    }
    fields = prior_of(prior, {TASK: condition.task} if condition.task else {}, SAMPLING[condition.kind])
    beyond = [f"The transformer knows {V} tokens; those that are no code are left out."] if V > K else []
    tensors = archive.tensors(table) | dict(condition.tensors)
    return joined(told, Imported(fields, tensors, (*beyond, *condition.notes)))


def _condition(checkpoint: TorchFile, settings: Settings, side: int, sizes: Sizes) -> Condition | None:
    """What the transformer's sequence begins with; None for what there is not here."""
    kind = vqgan_conditions.kind_of(checkpoint, settings)
    if kind in (None, "none"):
        return vqgan_conditions.nothing(settings, sizes) if kind else None
    if kind == "label":
        return vqgan_conditions.label(settings, sizes)
    stage = Part(checkpoint, vqgan_conditions.STAGE, but=UNUSED)
    quantizer = _quantizer(checkpoint, stage, settings, "model.params.cond_stage_config.params")
    return vqgan_conditions.codes(kind, stage, settings, quantizer, side, sizes)


def _unlike_ours(
    settings: Settings, sizes: Sizes, K: int, L: int, heads: int, condition: Condition | None
) -> Iterator[str]:
    """What keeps a transformer from being prior gpt."""
    params, (V, d, T), P = "model.params", sizes, condition.length if condition else 1
    if condition is None:
        key = settings.get(f"{params}.cond_stage_key", "depth")
        stage = settings.named(f"{params}.cond_stage_config.target") or settings.get(f"{params}.cond_stage_config")
        yield (
            f"it is conditioned on '{key}' ({stage}), and here are classes, depth maps and segmentations with a VQModel"
            " (cond_stage_model.*), and nothing; convert the first stage's own checkpoint for its tokenizer"
        )
    permuter = settings.named(f"{params}.permuter_config.target") or "Identity"
    if permuter != "Identity":
        yield f"it writes codes in the order {permuter}, prior gpt row by row"
    unmasked = settings.get(f"{params}.transformer_config.params.n_unmasked", 0)
    if unmasked > 1 and unmasked != P:
        yield f"its first {unmasked} tokens see each other (n_unmasked), and {P} come before the codes"
    if V < K:
        yield f"it knows {V} tokens, and the tokenizer writes {K} codes"
    if T < P - 1 + L:
        yield f"it reads {T} tokens, and a picture has {L}" + (f" after {P} of its condition" if P > 1 else "")
    if d % heads:
        yield f"width {d} does not divide into {heads} heads"


def _write_tiny(folder: Path, key: str = "class_label") -> list[Path]:
    """A tiny model with random values, conditioned on classes or on maps of one channel."""
    config = VQGANConfig(channels=32, multipliers=(1, 1), blocks=1, attention=(1,), z_channels=8)
    first = vqgan_names.tokenizer(TASK, config, 4) | vqgan_names.base(TASK, config, 4)
    first |= vqgan_names.vector_quantizer(6, 4)
    parts = {"first_stage_model": first}
    if key == "class_label":
        second = gpt_names.gpt(depth=1, d=8, hidden=32, K=6, V=6, T=16, L=16) | gpt_names.after_label(6, 8, 6)
    else:
        parts["cond_stage_model"] = first | vqgan_names.tokenizer(TASK, config, 4, channels=1)
        second = gpt_names.gpt(depth=1, d=8, hidden=32, K=6, V=6, T=32, L=16, P=16)
    parts["transformer"] = second
    arrays = {f"{part}.{name}": a for part, table in parts.items() for name, a in random_arrays(table).items()}
    return write_files(folder, arrays, _tiny_settings(key))


def _tiny_settings(key: str) -> dict[str, Any]:
    ddconfig = {"resolution": 8, "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "z_channels": 8}
    ddconfig["attn_resolutions"] = [4]
    first = {"params": {"embed_dim": 4, "n_embed": 6, "ddconfig": ddconfig}}
    transformer = {"params": {"n_head": 2, "n_layer": 1, "n_embd": 8, "vocab_size": 6, "block_size": 16}}
    params = {"cond_stage_key": key, "first_stage_config": first, "transformer_config": transformer}
    return {"model": {"params": params}}


def write_files(folder: Path, arrays: Mapping[str, Any], settings: Mapping[str, Any], name: str = "last") -> list[Path]:
    """A checkpoint and its configuration, as Lightning and omegaconf write them."""
    files = [folder / f"{name}.ckpt", folder / f"{name}.yaml"]
    torch.save({"state_dict": {name: torch.from_numpy(array) for name, array in arrays.items()}, "epoch": 0}, files[0])
    files[1].write_text(yaml.safe_dump(dict(settings)))
    return files


@hookimpl
def cynosure_register(register: Any) -> None:
    register.importer("vqgan", VQGAN)
