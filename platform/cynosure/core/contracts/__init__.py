"""The contracts between parts: abstract classes that a plugin implements, once and finally.

Every part has a nested pydantic `Config` and is built as `Part(config, ...)` with the arguments its contract names.
"""

from cynosure.core.contracts.config import PartConfig
from cynosure.core.contracts.importer import Importer
from cynosure.core.contracts.networks import Base, Criterion, Encoder, Prior, Quantizer, Tokenizer
from cynosure.core.contracts.tasks import Dataset, DatasetInfo, Protocol, Task

__all__ = [
    "Base",
    "Criterion",
    "Dataset",
    "DatasetInfo",
    "Encoder",
    "Importer",
    "PartConfig",
    "Prior",
    "Protocol",
    "Quantizer",
    "Task",
    "Tokenizer",
]
