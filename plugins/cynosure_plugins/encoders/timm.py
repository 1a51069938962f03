"""Any image backbone of timm as the encoder of a prior, with or without its published weights."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from math import isqrt, prod
from pathlib import Path
from typing import Any, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import nn

from cynosure import hookimpl
from cynosure.compat import import_timm
from cynosure.core.blocks import to_tokens
from cynosure.core.contracts import Encoder, PartConfig
from cynosure.core.initial import initial_weights_wanted
from cynosure.core.records import Shapes
from cynosure.core.resize import zoom_positions
from cynosure.errors import CheckpointError, CynosureError, did_you_mean
from cynosure_plugins.encoders.frozen import freeze

HEADS = ("attn_pool", "classifier", "conv_head", "fc", "fc_norm", "head", "head_dist", "norm_head")
"""Modules that read the features; an encoder has no use for them."""


@final
class TimmEncoder(Encoder):
    """Image [B, 3, H, W] -> one vector a patch or a cell of the last feature map, [B, N, d]; no class token.

    Raises CynosureError for an unknown model, one that cannot work at this image size, and weights that do not arrive;
    CheckpointError for a weights file that fits the backbone only in part.
    """

    class Config(PartConfig):
        model: str = Field("vit_small_patch16_224", description="a name from timm.list_models()")
        pretrained: bool = Field(False, description="fetch the published weights from the Hugging Face hub")
        weights: Path | None = Field(None, description="a local safetensors file with the weights of this model")
        frozen: bool = Field(False, description="leave the backbone as it is: no gradient, no batch statistics")
        positions: Literal["bicubic", "linear"] = Field(
            "bicubic",
            description="how a ViT's position table moves to another image size: as timm moves it, or linearly with "
            "its corners in place, as Google's ViTs are fine-tuned (UViM)",
        )

        @model_validator(mode="after")
        def _one_source(self) -> Self:
            if self.pretrained and self.weights:
                raise ValueError("set pretrained or weights, not both")
            return self

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.frozen = config.frozen
        self.starts_trained = config.pretrained or config.weights is not None
        self.backbone = _backbone(config, shapes.image_size)
        self.dim: int = self.backbone.num_features
        if self.frozen:
            freeze(self.backbone)
        mean, std = (torch.tensor(self.backbone.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        x = self.backbone.forward_features(inputs["image"] * self.scale + self.shift)
        if x.ndim == 3:
            return x[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            return x.flatten(1, 2)
        return to_tokens(x)


def _backbone(config: TimmEncoder.Config, image_size: tuple[int, int]) -> Any:
    timm = import_timm()
    if not timm.is_model(config.model):
        hint = did_you_mean(config.model, timm.list_models()) or "."
        raise CynosureError(f"no timm model is named '{config.model}'{hint} timm.list_models('*vit*') lists names.")
    published = timm.get_pretrained_cfg(config.model)
    size = {"img_size": image_size} if published and published.fixed_input_size else {}
    pretrained = config.pretrained and initial_weights_wanted()
    try:
        backbone = timm.create_model(config.model, pretrained=pretrained, num_classes=0, **size)
        if config.positions == "linear" and getattr(backbone, "pos_embed", None) is None:
            raise ValueError("it has no position table that positions: linear could move")
        if pretrained and config.positions == "linear":
            original = timm.create_model(config.model, pretrained=True, num_classes=0)
            backbone.pos_embed.data = _moved(original.pos_embed.data, backbone)
    except Exception as error:  # whatever timm, its models or the hub may raise
        raise CynosureError(_reason(config, image_size, error)) from error
    if config.weights and initial_weights_wanted():
        _load(backbone, config)
    for name in HEADS:
        if isinstance(getattr(backbone, name, None), nn.Module):
            setattr(backbone, name, nn.Identity())
    return backbone


def _moved(table: torch.Tensor, backbone: Any) -> torch.Tensor:
    """Positions [1, P + N, d] of a square picture, P of them of other tokens, for a backbone of another grid."""
    grid = backbone.patch_embed.grid_size
    others = backbone.pos_embed.shape[1] - prod(grid)
    side = isqrt(table.shape[1] - others)
    moved = zoom_positions(table[:, others:].unflatten(1, (side, side)), grid).flatten(1, 2)
    return torch.cat([table[:, :others], moved], 1)


def _load(backbone: Any, config: TimmEncoder.Config) -> None:
    """Fill a backbone from a safetensors file; the file may also hold a classifier, which is left out."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = config.weights
    assert path is not None
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"encoder timm: '{path}' is not a readable safetensors file ({error}).") from error
    if config.positions == "linear" and "pos_embed" in state:
        state["pos_embed"] = _moved(state["pos_embed"], backbone)
    resample = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if resample is not None and len(inspect.signature(resample).parameters) >= 2:
        state = resample(state, backbone)
    own = backbone.state_dict()
    state = {key: value for key, value in state.items() if key in own or not _of_head(key)}
    wrong = [key for key in own if not _of_head(key) and key not in state]
    wrong += [key for key, value in state.items() if key not in own or own[key].shape != value.shape]
    if wrong:
        raise CheckpointError(
            f"encoder timm: '{path}' holds the weights of another model: {len(wrong)} tensors are missing, "
            f"left over or of another shape, such as {', '.join(wrong[:3])}."
        )
    backbone.load_state_dict(state, strict=False)


def _of_head(key: str) -> bool:
    return key.partition(".")[0] in HEADS


def _reason(config: TimmEncoder.Config, image_size: tuple[int, int], error: Exception) -> str:
    said = str(error).strip().partition("\n")[0]
    if config.pretrained and not isinstance(error, (AssertionError, TypeError, ValueError)):
        return (
            f"encoder timm: the weights of '{config.model}' did not arrive from the Hugging Face hub ({said}); "
            "check the connection, or give a local file as weights."
        )
    size = f"{image_size[0]}x{image_size[1]}"
    return f"encoder timm: '{config.model}' cannot work at {size} pixels ({said}); change image_size or the model."


@hookimpl
def cynosure_register(register: Any) -> None:
    register.encoder("timm", TimmEncoder)
