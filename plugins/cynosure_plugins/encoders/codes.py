"""The codes of a depth map, a segmentation or another picture as the context of a prior."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, final

import torch
from pydantic import Field
from torch import nn

from cynosure import hookimpl
from cynosure.components import own_options
from cynosure.config.schema import as_part
from cynosure.config.yaml import parse_yaml
from cynosure.core.contracts import Encoder, PartConfig
from cynosure.core.initial import initial_weights_wanted, missing_files
from cynosure.core.records import Shapes
from cynosure.data.labels import one_hot
from cynosure.errors import CheckpointError, DataError
from cynosure.train.checkpoint import differences, model_file, read_tensors, shapes_of
from cynosure_plugins.convnets.vqgan import VQGANConfig
from cynosure_plugins.encoders.frozen import freeze
from cynosure_plugins.quantizers.vq import VectorQuantizer
from cynosure_plugins.tokenizers.vqgan import VQGANTokenizer

OWN, FIRST = "tokenizer.", "encoder.conv_in."
"""What the names of a run's tokenizer begin with, and within it those of first convolutions, one a task."""


@final
class CodesEncoder(Encoder):
    """Input `field` -> codes of a tokenizer that stands still -> one vector a code, [B, P, d], row by row (Esser et al.
    2021, section 3.2: r, which is prepended to s).

    The input is float [B, H, W] or [B, C, H, W], or class numbers int [B, H, W], which the tokenizer sees as one plane
    a class. Raises CheckpointError for `weights` that are no tokenizer of these options, DataError where the inputs
    hold no such field or other numbers of channels or classes.
    """

    class Config(PartConfig):
        field: str = Field(description="the input that becomes codes: depth, panoptic (classes), image, ...")
        channels: int = Field(ge=1, description="of that input: 1 for depth, 3 for colours, how many classes there are")
        dim: int = Field(256, ge=1, description="width of a code's vector")
        tokenizer: VQGANConfig = Field(VQGANConfig(), description="sizes of tokenizer vqgan that makes the codes")
        quantizer: VectorQuantizer.Config = Field(VectorQuantizer.Config(), description="its quantizer vq")
        weights: Path | None = Field(
            description="the run whose trained tokenizer it is; null: `init` or a converted checkpoint brings it, else"
            " codes are made at random"
        )

    def __init__(self, config: Config, shapes: Shapes) -> None:
        super().__init__()
        self.config = config
        quantizer = VectorQuantizer(config.quantizer)
        self.dim, self.vocab_size = config.dim, quantizer.vocab_size
        self.starts_trained = config.weights is not None
        own = Shapes(shapes.image_size, {config.field: config.channels})
        self.tokenizer = VQGANTokenizer(VQGANTokenizer.Config(**config.tokenizer.model_dump()), own, quantizer)
        freeze(self.tokenizer)
        self.embedding = nn.Embedding(self.vocab_size, config.dim)
        self.positions = nn.Parameter(torch.zeros(1, self.tokenizer.code_positions, config.dim))
        nn.init.normal_(self.embedding.weight, std=0.02)
        if config.weights:
            self._begin(config.weights.expanduser())
        self.train()

    def _begin(self, folder: Path) -> None:
        """With the tokenizer of a run; in a dry run only say if it is not there."""
        missing = missing_files()
        if missing is not None and not folder.exists():
            missing.append(f"encoder codes: there is no run {folder}")
        if initial_weights_wanted():
            self.tokenizer.load_state_dict(read_tokenizer(folder, self))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.tokenizer.eval()  # so that its codebook learns nothing
        return self

    def forward(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        return self.embedding(self.tokens(inputs, task)) + self.positions

    @torch.no_grad()
    def tokens(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """Codes int64 [B, P]; the same in any precision around them."""
        planes = self._planes(inputs, task)
        with torch.autocast(planes.device.type, enabled=False):
            return self.tokenizer.encode(planes, inputs, self.config.field).codes.ids[..., 0]

    def _planes(self, inputs: Mapping[str, Any], task: str) -> torch.Tensor:
        """What the tokenizer sees, float32 [B, channels, H, W]."""
        field, channels = self.config.field, self.config.channels
        values = inputs.get(field)
        if not torch.is_tensor(values):
            raise DataError(
                f"encoder codes: task '{task}' gives no '{field}', only: {', '.join(inputs)}; set the task's condition,"
                " or the encoder's field."
            )
        if not values.is_floating_point():
            if bool((values >= channels).any()):
                raise DataError(
                    f"encoder codes met class {int(values.max())} in '{field}', but knows 0 to {channels - 1}: let the"
                    " task's labels and the encoder's channels be the same number."
                )
            return one_hot(values, channels)
        planes = values.float() if values.ndim == 4 else values.float()[:, None].expand(-1, channels, -1, -1)
        if planes.shape[1] != channels:
            raise DataError(f"encoder codes: '{field}' has {planes.shape[1]} channels, set channels to match.")
        return planes


def read_tokenizer(folder: Path, encoder: CodesEncoder) -> dict[str, torch.Tensor]:
    """The tensors that a run's tokenizer has for an encoder's, by name.

    Raises CheckpointError where there is no run, or its tokenizer has other options or knows several tasks.
    """
    tensors, told = read_tensors(model_file(folder))
    _require_options(folder, told.get("recipe", ""), encoder.config)
    state = {name.removeprefix(OWN): tensor for name, tensor in tensors.items() if name.startswith(OWN)}
    tasks = sorted({name.removeprefix(FIRST).partition(".")[0] for name in state if name.startswith(FIRST)})
    if len(tasks) != 1:
        raise CheckpointError(f"encoder codes: {folder} is of tasks {', '.join(tasks)}: train a tokenizer of one task.")
    field = f"{FIRST}{encoder.config.field}."
    state = {name.replace(f"{FIRST}{tasks[0]}.", field): tensor for name, tensor in state.items()}
    if found := differences(shapes_of(encoder.tokenizer.state_dict()), shapes_of(state)):
        raise CheckpointError(f"encoder codes: {folder} has another tokenizer: {'; '.join(found)}.")
    return state


def _require_options(folder: Path, recipe: str, config: CodesEncoder.Config) -> None:
    """Raises CheckpointError unless a run's tokenizer has the encoder's options, of which not all show in shapes."""
    model = (parse_yaml(recipe, str(folder)).data or {}).get("model") or {}
    tokenizer = as_part(model.get("tokenizer") or "none")
    quantizer = as_part(tokenizer.get("quantizer") or "none")
    if (tokenizer["name"], quantizer["name"]) != ("vqgan", "vq"):
        found = f"{tokenizer['name']} with {quantizer['name']}"
        raise CheckpointError(f"encoder codes: the tokenizer of {folder} is {found}, and it takes vqgan with vq.")
    del tokenizer["quantizer"]
    wrong = _other("tokenizer", config.tokenizer, VQGANConfig(**own_options("tokenizer", tokenizer)))
    wrong += _other("quantizer", config.quantizer, VectorQuantizer.Config(**own_options("quantizer", quantizer)))
    if wrong:
        raise CheckpointError(
            f"encoder codes: {folder} has another {', '.join(wrong)}: copy the options of its tokenizer (recipe.yaml)."
        )


def _other(part: str, own: PartConfig, found: PartConfig) -> list[str]:
    """Names of options that differ."""
    theirs = found.model_dump()
    return [f"{part}.{name}" for name, value in own.model_dump().items() if value != theirs[name]]


@hookimpl
def cynosure_register(register: Any) -> None:
    register.encoder("codes", CodesEncoder)
