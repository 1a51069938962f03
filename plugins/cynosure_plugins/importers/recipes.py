"""Recipes of imported models that generate pictures: what the halves say, and joining them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cynosure.config.yaml import Document, merge
from cynosure.core.records import Imported

TASK = "generation"
"""The recipe's key of the task."""


def model_of(side: int, loss: Mapping[str, float], tokenizer: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a tokenizer and its base for pictures of `side` pixels, with the weights of the task's loss."""
    return {
        "image_size": side,
        "data": {"images": {"name": "images", "source": "data/images"}},
        "tasks": {TASK: {"data": "images", **loss}},
        "model": {"tokenizer": tokenizer, "base": base},
        "eval": {"batch_size": 4},
    }


def prior_of(prior: dict[str, Any], labels: bool, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """What a prior adds to that; with `labels` it draws what a label names."""
    condition = {"tasks": {TASK: {"condition": "label"}}} if labels else {}
    return {
        **condition,
        "model": {"prior": prior},
        "train": {"stages": ["codes", "prior"]},
        "eval": {"sampling": dict(sampling)},
    }


def joined(first: Imported, second: Imported) -> Imported:
    """One model of a tokenizer with its base, and a prior."""
    fields = merge(Document(first.recipe), Document(second.recipe)).data
    return Imported(fields, {**first.tensors, **second.tensors}, (*first.notes, *second.notes))
