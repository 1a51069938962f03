"""Recipes of imported models that generate pictures: what the halves say, and joining them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cynosure.config.yaml import Document, merge
from cynosure.core.records import Imported

TASK, TEXT_TASK = "generation", "text_to_image"
"""The recipe's key of the task, without texts and with them."""


def model_of(
    side: int, loss: Mapping[str, float], tokenizer: dict[str, Any], base: dict[str, Any], task: str = TASK
) -> dict[str, Any]:
    """The recipe of a tokenizer and its base for pictures of `side` pixels, with the weights of the task's loss."""
    return {
        "image_size": side,
        "data": {"images": {"name": "images", "source": "data/images"}},
        "tasks": {task: {"data": "images", **loss}},
        "model": {"tokenizer": tokenizer, "base": base},
        "eval": {"batch_size": 4},
    }


LABELS = {TASK: {"condition": "label"}}
TEXTS: dict[str, Any] = {TEXT_TASK: {}}


def prior_of(prior: dict[str, Any], condition: Mapping[str, Any], sampling: Mapping[str, Any]) -> dict[str, Any]:
    """What a prior adds to that; with condition LABELS it draws what a label names, with TEXTS what a text says."""
    return {
        **({"tasks": dict(condition)} if condition else {}),
        "model": {"prior": prior},
        "train": {"stages": ["codes", "prior"]},
        "eval": {"sampling": dict(sampling)},
    }


def joined(first: Imported, second: Imported) -> Imported:
    """One model of a tokenizer with its base, and a prior."""
    fields = merge(Document(first.recipe), Document(second.recipe)).data
    return Imported(fields, {**first.tensors, **second.tensors}, (*first.notes, *second.notes))
