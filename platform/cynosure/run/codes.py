"""What the guiding codes of one answer do: what each of them changes, and how sure the prior was of it.

Shapes: L code length, D depth, H W pixels at the model's resolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cynosure.core.contracts import Task, Tokenizer
from cynosure.core.records import Batch, Codes, CodeSpec, SampleSettings
from cynosure.data.loading import collate
from cynosure.errors import CynosureError
from cynosure.run.predictor import read_row
from cynosure.run.seeds import row_seeds
from cynosure.run.steering import check_codes, spec_of

if TYPE_CHECKING:
    from cynosure.run.predictor import Predictor

DRAWS = 32
"""Fresh answers of the prior that tell how sure it is."""
OTHERS = 4
"""Codes that take the place of one which has no vector of its own to drop."""


@dataclass(frozen=True)
class CodeReport:
    """The codes of one answer, `ids` int64 [L, D], and what they do.

    `changes` float32 [L, H, W]: what dropping one code changes in the raw output, mean absolute difference over its
    channels (see `occlusion`); `certainty` float [L]: how sure the prior was (see `certainty`), None without a prior.
    """

    ids: np.ndarray
    spec: CodeSpec
    changes: np.ndarray
    certainty: np.ndarray | None

    @property
    def influence(self) -> np.ndarray:
        """Mean change of the whole output when one code is dropped, float [L], in units of the raw output."""
        return self.changes.mean(axis=(1, 2))

    @property
    def centres(self) -> np.ndarray:
        """Where a code acts: the centre of its changes, float [L, 2] = (x, y) as shares of width and height."""
        _, height, width = self.changes.shape
        across, down = ((np.arange(n) + 0.5) / n for n in (width, height))
        total = self.changes.sum(axis=(1, 2)).clip(np.finfo(np.float32).tiny)
        x, y = self.changes.sum(axis=1) @ across / total, self.changes.sum(axis=2) @ down / total
        return np.stack([x, y], axis=1)

    def to_dict(self, size: tuple[int, int] | None) -> dict[str, Any]:
        """As JSON has it; centres in pixels of a picture of `size` (H, W), else as shares."""
        scale = (1.0, 1.0) if size is None else (size[1], size[0])
        return {
            "grid": self.spec.grid,
            "ids": plain(self.ids),
            "influence": [round(float(v), 6) for v in self.influence],
            "centre": [[round(float(x * scale[0]), 3), round(float(y * scale[1]), 3)] for x, y in self.centres],
            "certainty": None if self.certainty is None else [round(float(v), 4) for v in self.certainty],
        }


def plain(ids: np.ndarray) -> list[Any]:
    """Ids [L, D] as lists; one list of L where D is 1."""
    listed: list[Any] = (ids[:, 0] if ids.shape[1] == 1 else ids).tolist()
    return listed


def report(
    predictor: Predictor,
    source: Any,
    task: str | None,
    codes: Any,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> CodeReport:
    """What the codes [L, D] of an answer do to `source` (as `Predictor.predict` takes it).

    Raises CynosureError for codes that do not fit or leave a position free, DataError for a source that cannot be read.
    """
    model, learnt = predictor.model, predictor.task(task)
    spec, row = spec_of(model), _row(learnt, source)
    ids = check_codes(codes, spec)
    changes = occlusion(predictor, row, task, ids, batch_size)
    asked = all(name in row for name in learnt.inputs)
    sure = None if model.prior is None or not asked else certainty(predictor, row, learnt, ids, draws, seed, batch_size)
    return CodeReport(ids, spec, changes, sure)


def _row(task: Task, source: Any) -> dict[str, Any]:
    """A source as a row; of a task that makes pictures it may be a row with nothing but one, whose codes are known."""
    alone = isinstance(source, Mapping) and any(name not in source for name in task.inputs)
    return read_row(task, source, "oracle" if alone else "prior")


@torch.inference_mode()
def occlusion(
    predictor: Predictor, source: Any, task: str | None, codes: Any, batch_size: int | None = None
) -> np.ndarray:
    """How the raw output changes when one code is dropped, float32 [L, H, W]: mean over channels of |difference|.

    A dropped code is the zero vector, which code dropout teaches the base (UViM, section 2.3). Where codes share their
    vectors, as those of several scales or of several numbers a vector do, others take its place one by one instead, and
    the mean change counts. All L are computed, `batch_size` (the recipe's) at a time. Raises CynosureError for codes
    that do not fit or leave a position free.
    """
    model, learnt = predictor.model, predictor.task(task)
    spec, device = spec_of(model), predictor.device
    ids = check_codes(codes, spec)
    if (ids < 0).any():
        raise CynosureError("every position needs a code here: predict first, and take the codes of the prediction")
    tokenizer = model.tokenizer
    assert tokenizer is not None
    codes = torch.from_numpy(ids).to(device)
    vectors = tokenizer.vectors(Codes(codes[None], spec))
    row = _row(learnt, source)
    whole = model.base(copies(learnt, row, 1).to(device).inputs, vectors, learnt.name).float()
    alone = own_vectors(tokenizer)
    times = 1 if alone else OTHERS
    numbers_of_all = torch.arange(spec.length * times, device=device)
    changes = []
    for numbers in numbers_of_all.split(batch_size or predictor.recipe.eval.batch_size):
        batch = copies(learnt, row, len(numbers)).to(device)
        if alone:
            without = vectors * (torch.arange(spec.length, device=device) != numbers[:, None])[..., None]
        else:
            without = tokenizer.vectors(Codes(_replaced(codes, spec, numbers), spec))
        outputs = model.base(batch.inputs, without, learnt.name).float()
        changes.append((outputs - whole).abs().mean(dim=1).cpu())
    return torch.cat(changes).unflatten(0, (spec.length, times)).mean(1).numpy()


def own_vectors(tokenizer: Tokenizer) -> bool:
    """Whether every code has a vector of its own."""
    return tokenizer.code_positions == tokenizer.spec.length


def _replaced(codes: torch.Tensor, spec: CodeSpec, numbers: torch.Tensor) -> torch.Tensor:
    """Codes [L, D] -> [B, L, D]: for every number p * OTHERS + i the code at p is the i-th of others that lie evenly
    between its id and itself again."""
    positions, turn = numbers // OTHERS, numbers % OTHERS + 1
    sizes = spec.limits().to(codes.device)[positions]
    step = (sizes * turn[:, None]) // (OTHERS + 1)
    replaced = codes.repeat(len(numbers), 1, 1)
    replaced[torch.arange(len(numbers)), positions] = (codes[positions] + step.clamp_min(1)) % sizes
    return replaced


@torch.inference_mode()
def certainty(
    predictor: Predictor,
    row: Any,
    task: Task,
    ids: np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
    batch_size: int | None = None,
) -> np.ndarray:
    """How sure the prior is of the codes `ids` [L, D] for a row, by `draws` fresh answers at temperature 1: float [L].

    1 where all of them have this code; 0 where they are no nearer to it, in squared distance of code vectors, than the
    codebook is on average. Ids alone would not do: many codebooks hold several codewords for the same thing. Where
    codes share their vectors ids must do: the share of answers that have this one.
    """
    tokenizer = predictor.model.tokenizer
    assert tokenizer is not None
    drawn = []
    for numbers in torch.arange(draws).split(batch_size or predictor.recipe.eval.batch_size):
        batch = copies(task, row, len(numbers)).to(predictor.device)
        seeds = row_seeds(seed, batch.keys, numbers.to(predictor.device))
        codes = predictor.model.codes(batch, "prior", SampleSettings(temperature=1.0), seeds)
        assert codes is not None
        drawn.append(codes.ids.cpu().numpy())
    if not own_vectors(tokenizer):
        return (np.concatenate(drawn) == ids).mean(axis=(0, 2))
    own = code_vectors(tokenizer, ids[None])
    distance = sum(_square(code_vectors(tokenizer, each) - own).sum(axis=0) for each in drawn) / draws
    codebook = code_vectors(tokenizer, all_codes(tokenizer.spec)).reshape(-1, 1, tokenizer.code_dim)
    average = np.stack([_square(codebook - vector).mean() for vector in own[0]])
    return 1 - np.minimum(distance / average.clip(np.finfo(np.float64).tiny), 1)


def _square(vectors: np.ndarray) -> np.ndarray:
    """Squared lengths of vectors [..., d]."""
    return np.square(vectors).sum(axis=-1)


def all_codes(spec: CodeSpec) -> np.ndarray:
    """Codes int64 [B, L, D] in which every id of every level appears."""
    count = -(-spec.vocab_size // min(s.length for s in spec.segments))
    numbers = np.arange(count * spec.length).reshape(count, spec.length, 1)
    return (numbers * (1 + 2 * np.arange(spec.depth))) % spec.limits().numpy()


@torch.inference_mode()
def code_vectors(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """Codes [B, L, D] -> vectors float64 [B, L, d]."""
    device = next(chain(tokenizer.parameters(), tokenizer.buffers())).device
    vectors = tokenizer.vectors(Codes(torch.from_numpy(ids).to(device), tokenizer.spec))
    return vectors.double().cpu().numpy()


def copies(task: Task, row: Any, count: int) -> Batch:
    """One row as the model sees it, `count` times."""
    example = task.prepare(row, np.random.default_rng(0), False)
    return collate(task.name, [example] * count)
