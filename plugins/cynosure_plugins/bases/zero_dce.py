"""Zero-DCE and Zero-DCE++ as bases: what STAR is measured against."""

from __future__ import annotations

from typing import Any, final

from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig
from cynosure.core.records import Shapes
from cynosure_plugins.curvenets.convolutional import PooledDCENet, ZeroDCENet, ZeroDCEppNet
from cynosure_plugins.curvenets.net import CurveBase


@final
class ZeroDCE(CurveBase):
    """The network of Zero-DCE (Guo et al. 2020), which STAR's authors call DCE-Net, and with `pool` DCE-Net-Pool."""

    class Config(PartConfig):
        dim: int = Field(32, ge=1, description="width of all layers")
        pool: bool = Field(False, description="halve the resolution three times on the way: a ninth of the products")

    def __init__(self, config: Config, shapes: Shapes) -> None:
        kind = PooledDCENet if config.pool else ZeroDCENet
        super().__init__({task: kind(config.dim, maps) for task, maps in shapes.channels.items()}, shapes)


@final
class ZeroDCEpp(CurveBase):
    """The network of Zero-DCE++ (Li et al. 2021). It is made for one curve map that all steps share."""

    class Config(PartConfig):
        dim: int = Field(32, ge=1, description="width of all layers")
        scale: int = Field(1, ge=1, description="by how much the picture is reduced; published 1 to 12")

    def __init__(self, config: Config, shapes: Shapes) -> None:
        nets = {task: ZeroDCEppNet(config.dim, maps, config.scale) for task, maps in shapes.channels.items()}
        super().__init__(nets, shapes)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.base("zero_dce", ZeroDCE)
    register.base("zero_dce_pp", ZeroDCEpp)
