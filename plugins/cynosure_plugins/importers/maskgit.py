"""MaskGIT's released checkpoints: the tokenizer and the transformer, which are files of their own."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from pydantic import ValidationError

from cynosure import hookimpl
from cynosure.core.contracts import Importer, PartConfig
from cynosure.core.records import Imported
from cynosure.errors import CheckpointError
from cynosure_plugins.convnets.layers import PUBLISHED_GROUPS
from cynosure_plugins.convnets.maskgit import MaskGITConfig
from cynosure_plugins.importers import maskgit_names
from cynosure_plugins.importers.archive import Archive, Part, random_arrays
from cynosure_plugins.importers.maskgit_names import Sizes
from cynosure_plugins.importers.msgpack_file import NDARRAY, Msgpack
from cynosure_plugins.importers.npz import guess
from cynosure_plugins.importers.recipes import LABELS, TASK, joined, model_of, prior_of

FIRST, SECOND = "MaskGIT tokenizer", "MaskGIT transformer"
ROOTS = ("", "params/", "params/params/", "target/", "target/params/", "optimizer/target/", "optimizer/target/params/")
"""What may stand before the names of parameters; whatever else a file has, such as moments, is not needed."""
RELEASED_CODES = 1024
LARGE = 1024
"""Codes of a picture of 512 pixels, which the paper decodes in 12 rounds rather than 8."""
PICTURE = 256


@final
class MaskGIT(Importer):
    """Flax checkpoints of google-research/maskgit (Chang et al. 2022): a tokenizer, a transformer, or both.

    Sizes are read off the arrays. Two are in none: how many tokens of a transformer are codes, which the tokenizer
    tells (alone, 1024 as released), and the size of pictures, which the transformer tells (a tokenizer alone, 256).
    """

    class Config(PartConfig):
        pass

    TESTING: ClassVar = {"files": lambda folder: _write_tiny(folder)}

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, files: Sequence[Path]) -> Imported:
        found: dict[str, list[Archive]] = {FIRST: [], SECOND: []}
        for file in files:
            kind, archive = _parameters(Msgpack(file))
            found[kind].append(archive)
        for kind, archives in found.items():
            if len(archives) > 1:
                raise CheckpointError(f"{' and '.join(str(a.path) for a in archives)}: give one {kind}, not several.")
        first, second = (next(iter(found[kind]), None) for kind in (FIRST, SECOND))
        sizes = _sizes(second) if second else None
        problems: list[str] = []
        tokenizer = _tokenizer(first, sizes, problems) if first else None
        codes = tokenizer.recipe["model"]["tokenizer"]["quantizer"]["vocab_size"] if tokenizer else RELEASED_CODES
        prior = _prior(second, sizes, codes, problems) if second and sizes else None
        if problems:
            raise CheckpointError("\n".join(problems))
        if tokenizer and prior:
            return joined(tokenizer, prior)
        only = tokenizer or prior
        assert only is not None
        return only


def _parameters(file: Msgpack) -> tuple[str, Archive]:
    """What a file is, and its parameters."""
    for root in ROOTS:
        if f"{root}quantizer/codebook" in file.shapes:
            return FIRST, Part(file, root)
        if f"{root}Embed_0/word_embeddings/embedding" in file.shapes:
            return SECOND, Part(file, root)
    raise CheckpointError(f"{file.path} is no {FIRST} and no {SECOND}: {guess(list(file.shapes))}.")


def _tokenizer(archive: Archive, sizes: Sizes | None, problems: list[str]) -> Imported:
    config = _config(archive)
    vocab_size, dim = archive.shapes["quantizer/codebook"]
    table = {
        **maskgit_names.tokenizer(TASK, config, dim),
        **maskgit_names.base(TASK, config, dim),
        **maskgit_names.vector_quantizer(vocab_size, dim),
    }
    problems += archive.problems(table, FIRST)
    quantizer = {
        **{"name": "vq", "vocab_size": vocab_size, "dim": dim, "update": "gradient", "normalize": False},
        **{"min_count": 0, "commitment": 0.25, "entropy": 0.1},
    }
    network = {"name": "maskgit", **config.model_dump(mode="json")}
    side = isqrt(sizes.length) * config.factor if sizes else PICTURE
    notes = () if sizes else (f"Pictures are taken to be {side} x {side} pixels: the tokenizer does not say.",)
    fields = model_of(side, {"l1": 0.0, "l2": 0.25}, {**network, "quantizer": quantizer}, network)
    return Imported(fields, {} if problems else archive.tensors(table), notes)


def _config(archive: Archive) -> MaskGITConfig:
    """Sizes of encoder and decoder."""
    archive.require(["encoder/Conv_0/kernel", "quantizer/codebook"], FIRST)
    levels = archive.count("decoder/Conv_") - 1
    blocks = archive.count("encoder/ResBlock_")
    archive.refuse(_odd(archive, levels, blocks), FIRST)
    n = blocks // (levels + 1)
    first = [f"encoder/ResBlock_{i * n}/Conv_0/kernel" for i in range(levels)]
    archive.require(first, FIRST)
    channels = archive.shapes["encoder/Conv_0/kernel"][-1]
    widths = [archive.shapes[name][-1] for name in first]
    archive.refuse(
        [f"widths {widths} are no multiples of {channels}"] if any(w % channels for w in widths) else [], FIRST
    )
    try:
        multipliers = tuple(w // channels for w in widths)
        return MaskGITConfig(channels=channels, multipliers=multipliers, blocks=n, groups=PUBLISHED_GROUPS)
    except ValidationError as error:
        raise CheckpointError(f"{archive.path} is no {FIRST} that tokenizer maskgit can be: {error}.") from error


def _odd(archive: Archive, levels: int, blocks: int) -> Iterable[str]:
    """What is wrong with the numbers of layers."""
    for name, axes in {"encoder/Conv_0/kernel": 4, "quantizer/codebook": 2}.items():
        if len(archive.shapes[name]) != axes:
            yield f"{name} is {list(archive.shapes[name])}"
    if any(name.startswith("encoder/Conv_2/") for name in archive.shapes):
        yield "its encoder halves pictures by convolutions, and tokenizer maskgit by averages"
    elif levels < 1 or blocks < levels + 1 or blocks % (levels + 1):
        yield f"{blocks} residual blocks of the encoder do not divide among {levels} levels and the middle"


def _sizes(archive: Archive) -> Sizes:
    """Of a transformer."""
    telling = {
        **{"Embed_0/word_embeddings/embedding": 2, "Embed_0/position_embeddings/embedding": 2},
        **{"TransformerLayer_0/Attention_0/self_attention/query/kernel": 3},
        **{"TransformerLayer_0/Mlp_0/intermediate_output/kernel": 2},
    }
    archive.require(telling, SECOND)
    shapes = [archive.shapes[name] for name in telling]
    archive.refuse(
        (f"{n} is {list(archive.shapes[n])}" for n, a in telling.items() if len(archive.shapes[n]) != a), SECOND
    )
    (tokens, dim), (places, _), (_, heads, per_head), (_, hidden) = shapes
    archive.refuse([f"{heads} heads of {per_head} are not width {dim}"] if heads * per_head != dim else [], SECOND)
    length = isqrt(max(places - 1, 0)) ** 2
    return Sizes(dim, archive.count("TransformerLayer_"), heads, hidden, tokens, places, length)


def _prior(archive: Archive, sizes: Sizes, codes: int, problems: list[str]) -> Imported:
    table = maskgit_names.transformer(sizes)
    problems += archive.problems(table, SECOND)
    classes = sizes.tokens - codes - 1
    if classes < 1:
        problems.append(
            f"{archive.path} knows {sizes.tokens} tokens, too few for {codes} codes, classes and a mask: convert it"
            " together with its own tokenizer."
        )
    prior = {
        **{"name": "masked", "dim": sizes.dim, "depth": sizes.depth, "heads": sizes.heads, "mlp_dim": sizes.hidden},
        **{"classes": classes, "steps": 12 if sizes.length >= LARGE else 8, "task_tokens": False},
    }
    fields = prior_of(prior, LABELS, {"temperature": 1.0})
    return Imported(fields, {} if problems else archive.tensors(table))


def _write_tiny(folder: Path) -> list[Path]:
    """A tiny tokenizer and its transformer, with random values."""
    config = MaskGITConfig(channels=32, multipliers=(1, 1), blocks=1)
    first = maskgit_names.tokenizer(TASK, config, 4) | maskgit_names.base(TASK, config, 4)
    first |= maskgit_names.vector_quantizer(6, 4)
    second = maskgit_names.transformer(Sizes(8, depth=1, heads=2, hidden=16, tokens=10, places=17, length=16))
    files = [folder / "tokenizer_checkpoint", folder / "maskgit_checkpoint"]
    for file, table in zip(files, (first, second), strict=True):
        file.write_bytes(to_msgpack({"params": tree(random_arrays(table))}))
    return files


def tree(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays by path as nested dicts."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    return found


def to_msgpack(value: Any) -> bytes:
    """Dicts, lists, strings, numbers, bytes and arrays as `flax.serialization` writes them."""
    if isinstance(value, dict):
        return struct.pack(">BI", 0xDF, len(value)) + b"".join(to_msgpack(x) for pair in value.items() for x in pair)
    if isinstance(value, (list, tuple)):
        return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(to_msgpack, value))
    if isinstance(value, np.ndarray):
        data = to_msgpack([list(value.shape), value.dtype.name, value.tobytes()])
        return struct.pack(">BIb", 0xC9, len(data), NDARRAY) + data
    if isinstance(value, str):
        return struct.pack(">BI", 0xDB, len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    return struct.pack(">Bq", 0xD3, value)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.importer("maskgit", MaskGIT)
