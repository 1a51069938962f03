"""What every part's options have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PartConfig(BaseModel):
    """Base of every nested `Config`: unknown options are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
