"""Codes that share their vectors, as those of several scales do: they are shown and steered like any other."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import make_predictor, open_session, save_run
from typer.testing import CliRunner

from cynosure.cli.app import create_app
from cynosure.core.records import Codes
from cynosure.data.files import write_png
from cynosure.run.codepictures import PANEL
from cynosure.run.codes import copies, occlusion
from cynosure.run.predictor import Predictor


def invoke(run, *arguments):
    done = CliRunner().invoke(create_app(), ["codes", str(run), *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def photo():
    return np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)


SHARED = {
    "several scales": "{name: multiscale, vocab_size: 8, dim: 4, scales: [1, 2]}",
    "several numbers a vector": "{name: latent, sizes: [5, 4, 3], spread: true}",
}


@pytest.mark.parametrize("quantizer", SHARED.values(), ids=SHARED)
def test_codes_that_share_their_vectors_are_shown_and_steered_too(tmp_path, quantizer):
    session = open_session(tmp_path, f"model.tokenizer.quantizer={quantizer}")
    save_run(session, tmp_path / "run")
    file, out = write_png(tmp_path / "photo.png", photo()), tmp_path / "out"
    invoke(tmp_path / "run", file, "--task", "depth", "-o", out, "--resample", "1,2", "--samples", 2)
    told = json.loads((out / "photo.depth.codes.json").read_text())
    length = len(told["ids"])
    assert len(told["influence"]) == len(told["certainty"]) == length and min(told["influence"]) > 0
    assert all(0 <= sure <= 1 for sure in told["certainty"])
    assert all(np.delete(new, [1, 2]).tolist() == np.delete(told["ids"], [1, 2]).tolist() for new in told["new"])
    assert Image.open(out / "photo.depth.codes.png").width > 3 * PANEL * 0.8


def test_a_shared_code_is_weighed_by_what_others_in_its_place_give(tmp_path):
    predictor = make_predictor(open_session(tmp_path, f"model.tokenizer.quantizer={SHARED['several scales']}"))
    model, task, ids = predictor.model, predictor.task("depth"), np.array([[1], [5], [2], [7], [0]])
    changes = occlusion(predictor, photo(), "depth", ids, batch_size=3)
    batch = copies(task, {"image": photo()}, 1)

    def answer(codes):
        vectors = model.tokenizer.vectors(Codes(torch.tensor(codes)[None], model.tokenizer.spec))
        return model.base(batch.inputs, vectors, "depth")

    with torch.no_grad():
        for position in range(5):
            others = []
            for step in (1, 3, 4, 6):  # of 8 codes
                replaced = ids.copy()
                replaced[position] = (ids[position] + step) % 8
                others.append((answer(replaced) - answer(ids)).abs().mean(1)[0])
            wanted = torch.stack(others).mean(0).numpy()
            assert np.allclose(changes[position], wanted, atol=1e-5), f"position {position}"


def test_new_answers_are_drawn_as_the_recipe_says(tmp_path, monkeypatch):
    asked, real = [], Predictor.predict_iter

    def spy(self, *arguments, **options):
        asked.append(self.settings(options.get("samples", 1), temperature=options.get("temperature")).temperature)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "predict_iter", spy)
    file = write_png(tmp_path / "photo.png", photo())
    for said, wanted in ((1.3, 1.3), (0.0, 0.8)):
        folder = tmp_path / str(said)
        folder.mkdir()
        save_run(open_session(folder, f"eval.sampling.temperature={said}"), folder / "run")
        invoke(folder / "run", file, "--task", "depth", "-o", folder / "out", "--keep", "0")
        assert asked[-1] == wanted, f"new answers of a recipe with temperature {said}"
