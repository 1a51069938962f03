"""A class label as the context of a prior: one learned vector a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import Field
from torch import nn

from cynosure import hookimpl
from cynosure.core.contracts import Encoder, PartConfig
from cynosure.core.records import Shapes
from cynosure.errors import DataError


@final
class LabelEncoder(Encoder):
    """Input `label` int [B] in [0, classes) -> [B, 1, d]. Raises DataError for other labels, or none."""

    class Config(PartConfig):
        classes: int = Field(ge=1, description="how many labels there are: 0, 1, ..., classes - 1")
        dim: int = Field(256, ge=1, description="width of a label's vector")

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.embedding = nn.Embedding(config.classes, config.dim)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.embedding(read_labels(inputs, self.config.classes, f"encoder label: task '{task}'"))[:, None]


def read_labels(inputs: Mapping[str, Any], classes: int, reader: str) -> torch.Tensor:
    """Labels int64 [B] of the inputs. Raises DataError, begun with `reader`, where one is not in [0, classes)."""
    labels = inputs.get("label")
    if not torch.is_tensor(labels):
        raise DataError(f"{reader} has no input 'label', only: {', '.join(inputs)}; choose a task that reads labels.")
    right = (labels >= 0) & (labels < classes)
    if not bool(right.all()):
        wrong = int(labels[~right][0])
        raise DataError(f"{reader} met label {wrong}, but labels are 0 to {classes - 1}; set classes to match.")
    return labels.long()


@hookimpl
def cynosure_register(register: Any) -> None:
    register.encoder("label", LabelEncoder)
