"""How the `masked` prior samples, against transcripts of the official decoding loop of google-research/maskgit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from convnets import TASK, read
from torch.overrides import TorchFunctionMode

from cynosure.core.records import CodeSpec, SampleSettings, Segment, Shapes
from cynosure_plugins.priors import masked
from cynosure_plugins.priors.masked import Masked
from cynosure_plugins.priors.masking import MASK, remask

TRANSCRIPTS = ("decode_cosine_full", "decode_edit", "decode_few_unknown", "decode_linear")


class Sorted(TorchFunctionMode):
    """Remembers what is sorted: how confident each code of a round is, which only its masks tell otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Any = None) -> Any:
        args = tuple(args)
        if func is torch.Tensor.sort:
            self.values.append(args[0])
        return func(*args, **(kwargs or {}))


class Transcript:
    """The reference's model and noise, by the names that `Masked` calls them by, and what came of every round.

    Sequences of the reference begin with a class, which no code of ours is: it is left out wherever ours looks.
    """

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.config = json.loads(str(arrays["config"]))
        self.arrays = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "config"}
        self.round = self.config["start_iter"] - 1
        self.initial = self.arrays["initial"].long()

    def wanted(self, name: str) -> torch.Tensor:
        found = self.arrays[f"step{self.round}/{name}"]
        return found[:, 1:] if found.ndim > 1 else found

    def same(self, found: torch.Tensor, name: str) -> None:
        assert torch.equal(found, self.wanted(name).to(found.dtype)), f"{name} of round {self.round}"

    def predict(self, prefix: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        self.round += 1
        self.same(ids, "input")
        sequence = torch.cat([self.initial[:, :1], ids], 1)
        slots = torch.where(sequence == MASK, 0, sequence + 1)
        mean = self.arrays["emb"][slots].mean(1, keepdim=True)
        return (self.arrays["base"] + mean + self.arrays["own"][slots])[:, 1:]

    def draw_all(self, logits: torch.Tensor, *_: Any) -> torch.Tensor:
        return (logits + self.wanted("sample_noise")).argmax(-1)

    def gumbel(self, uniforms: torch.Tensor) -> torch.Tensor:
        return self.wanted("choice_noise")

    def remask(self, logits: torch.Tensor, ids: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Ours, and that it did as the reference."""
        with Sorted() as seen:
            answer, following = remask(logits, ids, *rest)
        torch.testing.assert_close(seen.values[0], self.wanted("confidence"), atol=5e-5, rtol=0)
        self.same(answer, "sampled")
        self.same(following == MASK, "masking")
        self.same(following, "output")
        unknown = (ids == MASK).sum(1)
        assert torch.equal((following == MASK).sum(1), self.wanted("mask_len").minimum(unknown)), "how many are masked"
        assert torch.equal(answer, self.arrays["final_seqs"][:, self.round, 1:].long()), "the answer so far"
        return answer, following


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_sampling(golden: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round with the noise of the reference, from the first that is not left out."""
    transcript = Transcript(read(golden / "maskgit" / f"{name}.npz"))
    config, codes = transcript.config, transcript.initial[:, 1:]
    spec = CodeSpec((Segment("codes", codes.shape[1], 1, config["codebook_size"]),))
    free = {"schedule": config["mask_scheduling_method"], "choice_temperature": config["choice_temperature"]}
    known = codes[..., None] if (codes != MASK).any() else None
    edit = {} if known is None else {"edit_start": config["start_iter"]}
    options = Masked.Config(dim=4, depth=1, heads=1, mlp_dim=4, task_tokens=False, **free, **edit)
    model = Masked(options, Shapes((8, 8), {TASK: 3}, spec), None).eval()
    monkeypatch.setattr(model, "predict", transcript.predict)
    for function in ("draw_all", "gumbel", "remask"):
        monkeypatch.setattr(masked, function, getattr(transcript, function))
    settings = SampleSettings(steps=config["num_iter"], known=known)
    ids = model.sample({}, TASK, settings, torch.arange(len(codes))).ids[..., 0]
    assert torch.equal(ids, transcript.arrays["final_seqs"][:, -1, 1:].long())
    assert transcript.round == config["num_iter"] - 1, "the number of rounds"
