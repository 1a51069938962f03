"""Gumbel-softmax quantisation: a linear layer scores the codes, noise and softmax make choosing differentiable."""

from __future__ import annotations

from functools import partial
from typing import Any, final

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cynosure import hookimpl
from cynosure.core.contracts import PartConfig, Quantizer
from cynosure.core.records import Quantized
from cynosure_plugins.quantizers.codebook import Watch, block_rows, count_by_code, require_size, require_width


def gumbel_noise(like: torch.Tensor) -> torch.Tensor:
    """Independent samples of the Gumbel distribution, shaped as `like`."""
    return -torch.empty_like(like).exponential_().log()


@final
class GumbelQuantizer(Quantizer):
    """As DALL-E's tokenizer and taming-transformers' GumbelVQ, with codes that are deterministic after training.

    Training adds Gumbel noise to the logits and mixes codewords by softmax(· / temperature); with `straight_through`
    the forward pass takes the likeliest codeword alone (Jang et al. 2017). Evaluation takes the most likely code
    without noise. The `kl` loss pulls the code distribution of every vector to uniform. The logits [B · N, K] are never
    all in memory: where they would fill more than a block, training computes them again in the backward pass.
    """

    class Config(PartConfig):
        vocab_size: int = Field(8192, ge=1, description="K, codewords in the codebook")
        dim: int = Field(256, ge=1, description="d, width of the vectors and of a codeword")
        straight_through: bool = Field(True, description="train with one codeword a vector instead of a mixture")
        kl: float = Field(5e-4, ge=0, description="weight of the pull of code distributions to uniform")
        temperature: float = Field(1.0, gt=0, description="of the softmax, at the beginning")
        final_temperature: float | None = Field(None, gt=0, description="where it ends; null: it stays")
        anneal_steps: int = Field(
            0, ge=0, description="optimizer steps in which it gets there, by the same factor each; 0: at once"
        )

    step: torch.Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vocab_size, self.dim, self.depth = config.vocab_size, config.dim, 1
        self.project = nn.Linear(self.dim, self.vocab_size)
        self.codebook = nn.Embedding(self.vocab_size, self.dim)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._watch = Watch()

    @property
    def temperature(self) -> torch.Tensor:
        """Of the softmax in this step, a scalar."""
        config = self.config
        final = config.final_temperature or config.temperature
        done = (self.step / config.anneal_steps).clamp(max=1) if config.anneal_steps else torch.ones_like(self.step)
        return config.temperature * (final / config.temperature) ** done

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [B, N, 1] -> codewords [B, N, d]."""
        return self.codebook(ids[..., 0])

    def forward(self, vectors: torch.Tensor) -> Quantized:
        """Vectors [B, N, d] -> codewords (or mixtures) float32 [B, N, d], ids int64 [B, N, 1], losses."""
        require_width(vectors, self.dim)
        with torch.autocast(vectors.device.type, enabled=False):
            flat = vectors.float().flatten(0, 1)
            mixed, ids, kl = self._mix(flat) if self.training else self._choose(flat)
        losses = {"kl": self.config.kl * kl} if self.config.kl else {}
        usage = count_by_code(ids, self.vocab_size)
        return Quantized(mixed.view_as(vectors), ids.view(*vectors.shape[:-1], 1), losses, usage)

    def _mix(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self._watch.see(vectors)
        blocks = self._blocks(vectors)
        mix = self._mix_block if len(blocks) == 1 else partial(checkpoint, self._mix_block, use_reentrant=False)
        mixed, ids, divergences = zip(*(mix(block) for block in blocks), strict=True)
        return torch.cat(mixed), torch.cat(ids), torch.stack(divergences).sum() / len(vectors)

    def _mix_block(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self.project(vectors)
        weights = F.softmax((logits + gumbel_noise(logits)) / self.temperature, dim=-1)
        ids = weights.argmax(dim=-1)
        if self.config.straight_through:
            mixture = weights @ self.codebook.weight.detach()
            mixed = self.codebook(ids) + (mixture - mixture.detach())  # exactly the codeword: the bracket is zero
        else:
            mixed = weights @ self.codebook.weight
        return mixed, ids, self._divergence(logits)

    def _choose(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ids, divergences = [], []
        for block in self._blocks(vectors):
            logits = self.project(block)
            ids.append(logits.argmax(dim=-1))
            divergences.append(self._divergence(logits))
        chosen = torch.cat(ids)
        nothing = (vectors - vectors).sum(-1, keepdim=True)  # but of NaN, whose code must not look like any other
        return self.codebook(chosen) + nothing, chosen, torch.stack(divergences).sum() / len(vectors)

    def _blocks(self, vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return vectors.split(block_rows(2 * self.vocab_size))

    def _divergence(self, logits: torch.Tensor) -> torch.Tensor:
        """KL divergence of the code distributions from the uniform one, summed over vectors, in nats."""
        probabilities = logits.softmax(dim=-1)
        return (probabilities * (probabilities * self.vocab_size + 1e-10).log()).sum()

    @torch.no_grad()
    def learn(self) -> None:
        """Counts the step, on which the temperature depends."""
        if self._watch.end_step():
            self.step += 1

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        require_size(state_dict.get(f"{prefix}codebook.weight"), self.vocab_size, self.dim)
        super()._load_from_state_dict(state_dict, prefix, *args)


@hookimpl
def cynosure_register(register: Any) -> None:
    register.quantizer("gumbel", GumbelQuantizer)
