"""Odd pictures through a model of enhancement: each comes back at its size and depth, or a sentence says why not."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from small_run import make_model

from cynosure.build import Session
from cynosure.cli.app import main
from cynosure.config.recipe import load_recipe
from cynosure.errors import DataError
from cynosure.host import load_host
from cynosure.run.predictor import Predictor
from cynosure.train.checkpoint import write_tensors
from cynosure.train.saving import FORMAT

CHANGES = ("image_size=32", "data.scenes.size=32", "model.base={name: star_v2, dim: 8, grid: 8}")


@pytest.fixture(scope="module")
def session() -> Session:
    host = load_host()
    return Session.open(load_recipe("enhancement/tiny", CHANGES, host), host)


@pytest.fixture(scope="module")
def model(session: Session) -> Predictor:
    """Untrained, with random weights: it changes pictures, if not for the better."""
    return Predictor(make_model(session), session.recipe, session.host)


def photo(height: int = 40, width: int = 56, dtype: type = np.uint16, channels: int = 3) -> np.ndarray:
    """A dark gradient with noise; of uint16 its low bytes differ from its high ones."""
    rng = np.random.default_rng(height)
    levels = np.linspace(0.02, 0.4, width)[None, :, None] + 0.05 * rng.random((height, width, channels))
    return (levels * np.iinfo(dtype).max).astype(dtype)


def rgb(model: Predictor, source: object) -> np.ndarray:
    return model.predict(source).values["rgb"]


def gains_depth(answer: np.ndarray) -> bool:
    """Whether 16-bit levels are more than 8-bit ones written in 16 bits."""
    return answer.dtype == np.uint16 and bool((answer % 257).any())


def encode(pixels: np.ndarray, kind: str) -> bytes:
    write = imagecodecs.png_encode if kind == "png" else tiff_bytes
    return write(np.ascontiguousarray(pixels))


def tiff_bytes(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack" if pixels.ndim == 2 else "rgb", **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bits_go_in_and_come_out(model: Predictor, kind: str, tmp_path: Path) -> None:
    picture = photo()
    (tmp_path / f"deep.{kind}").write_bytes(encode(picture, kind))
    prediction = model.predict(tmp_path / f"deep.{kind}")
    answer = prediction.values["rgb"]
    assert gains_depth(answer), "the answer has no more than 8 bits"
    assert np.array_equal(answer, rgb(model, picture)), "a file and its array are answered differently"
    assert prediction.image().dtype == np.uint8
    (written,) = prediction.save(tmp_path / "answer.png")
    assert np.array_equal(imagecodecs.png_decode(written.read_bytes()), answer), "the file lost what the answer has"


def test_16_bits_are_the_same_picture_as_8(model: Predictor) -> None:
    """257 times a level of 8 bits is that level: the answers differ by rounding only."""
    picture = photo(dtype=np.uint8)
    deep = rgb(model, picture.astype(np.uint16) * 257)
    np.testing.assert_allclose(deep / 257, rgb(model, picture), atol=0.51)


def test_dark_16_bit_pictures_keep_their_steps(model: Predictor) -> None:
    """What 8 bits would make four levels of."""
    ramp = np.tile(np.arange(1024, dtype=np.uint16)[None, :, None], (8, 1, 3))
    assert len(np.unique(rgb(model, ramp))) > 500


def test_planes_in_a_tiff_and_turned_pictures(model: Predictor, tmp_path: Path) -> None:
    picture = photo()
    for name, pixels, options in (
        ("planes", picture.transpose(2, 0, 1), {"planarconfig": "separate"}),
        ("turned", np.rot90(picture), {"extratags": [(274, 3, 1, 6, True)]}),
        ("packed", picture, {"compression": "zlib", "predictor": True}),
    ):
        (tmp_path / "deep.tiff").write_bytes(tiff_bytes(np.ascontiguousarray(pixels), **options))
        assert np.array_equal(rgb(model, tmp_path / "deep.tiff"), rgb(model, picture)), f"{name}: other pixels are read"


def test_16_bit_transparency_is_kept(model: Predictor, tmp_path: Path) -> None:
    picture = photo(channels=4)
    for pixels, channels in ((picture, [0, 1, 2]), (picture[..., [0, 3]], [0, 0, 0])):
        file = tmp_path / "clear.png"
        file.write_bytes(encode(pixels, "png"))
        (written,) = model.predict(file).save(tmp_path / "answer")
        answer = imagecodecs.png_decode(written.read_bytes())
        assert answer.dtype == np.uint16 and np.array_equal(answer[..., 3], picture[..., 3])
        assert np.array_equal(answer[..., :3], rgb(model, picture[..., channels])), "transparency changed the colours"


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_counts_as_three_equal_colours(model: Predictor, kind: str, dtype: type, tmp_path: Path) -> None:
    grey = photo(dtype=dtype)[..., 0]
    (tmp_path / f"grey.{kind}").write_bytes(encode(grey, kind))
    wanted = rgb(model, np.dstack([grey, grey, grey]))
    assert wanted.dtype == dtype
    for source in (tmp_path / f"grey.{kind}", grey, grey[..., None]):
        assert np.array_equal(rgb(model, source), wanted)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (1, 40), (300, 9000)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiny_and_huge_pictures(model: Predictor, size: tuple[int, int], dtype: type) -> None:
    answer = rgb(model, photo(*size, dtype=dtype))
    assert answer.shape == (*size, 3) and answer.dtype == dtype


def test_a_panorama_is_answered_as_its_parts_of_the_same_maps(model: Predictor) -> None:
    """Every tile of rows gets the rows of the maps that lie over it: a picture of equal rows has smooth answers."""
    panorama = np.tile(photo(1, 9000), (300, 1, 1))
    steps = np.abs(np.diff(rgb(model, panorama).astype(int), axis=0))
    assert steps.max() < 0.02 * 65535, "the answer has an edge where the picture has none"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_black_and_white_stay_and_bright_pictures_stay_in_range(model: Predictor, dtype: type) -> None:
    """Curves keep both ends: an answer that leaves them has wrapped around, or divided by a level."""
    most = np.iinfo(dtype).max
    for level in (0, most):
        even = np.full((40, 56, 3), level, dtype)
        assert np.array_equal(rgb(model, even), even)
    bright = most - photo(dtype=dtype) // 16
    assert rgb(model, bright).min() > most // 4, "bright levels have wrapped around"


@pytest.mark.parametrize("floats", [np.float16, np.float32, np.float64])
def test_floats_keep_more_than_8_bits(model: Predictor, floats: type) -> None:
    answer = rgb(model, (photo() / 65535).astype(floats))
    assert gains_depth(answer)
    np.testing.assert_allclose(answer / 65535, rgb(model, photo()) / 65535, atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_named(model: Predictor, bad: float) -> None:
    picture = photo() / 65535
    picture[3, 4, 1] = bad
    for source in (picture, torch.from_numpy(picture).permute(2, 0, 1)):
        with pytest.raises(DataError, match=r"holds NaN or infinite values.*nan_to_num"):
            model.predict(source)
    good, error = model.predict([photo(), picture], on_error="collect")
    assert good.values["rgb"].shape == (40, 56, 3) and isinstance(error, DataError)


def test_a_damaged_16_bit_file_is_named(model: Predictor, tmp_path: Path) -> None:
    for kind in ("png", "tiff"):
        whole = encode(photo(), kind)
        (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf"cut\.{kind}' is"):
            model.predict(tmp_path / f"cut.{kind}")


def test_other_tasks_go_on_getting_8_bits(session: Session, tmp_path: Path) -> None:
    from cynosure.run.predictor import read_row

    class Looking:
        name, inputs, bits = "looking", ("image",), 8

    (tmp_path / "deep.png").write_bytes(encode(photo(), "png"))
    row = read_row(Looking(), tmp_path / "deep.png")  # type: ignore[arg-type]
    assert row["image"].dtype == np.uint8


def test_files_through_the_command(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each beside the others, those that are bad named, the grid of all drawn in 8 bits."""
    told = {"format": FORMAT, "recipe": session.recipe.to_yaml(), "plugins": "{}"}
    write_tensors(tmp_path / "model.safetensors", make_model(session).state_dict(), told)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "deep.png").write_bytes(encode(photo(), "png"))
    (folder / "scan.tif").write_bytes(encode(photo(), "tiff"))
    (folder / "clear.png").write_bytes(encode(photo(channels=4), "png"))
    (folder / "grey.png").write_bytes(encode(photo()[..., 0], "png"))
    Image.fromarray(photo(8, 8, np.uint8)).save(folder / "small.png")
    Image.fromarray(photo(1, 1, np.uint8)).save(folder / "dot.jpg")
    (folder / "cut.png").write_bytes(encode(photo(), "png")[:200])
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(tmp_path / "model.safetensors"), str(folder), "-o", str(tmp_path / "out"), "--grid"])
    printed = capsys.readouterr()
    assert stopped.value.code == 1 and "cut.png' is truncated or damaged" in printed.err
    found = {f.name: imagecodecs.png_decode(f.read_bytes()) for f in (tmp_path / "out").glob("*.png")}
    shapes = {name.split(".")[0]: (pixels.dtype.name, pixels.shape) for name, pixels in found.items()}
    assert shapes.pop("grid")[0] == "uint8"
    assert shapes == {
        "deep": ("uint16", (40, 56, 3)),
        "scan": ("uint16", (40, 56, 3)),
        "clear": ("uint16", (40, 56, 4)),
        "grey": ("uint16", (40, 56, 3)),
        "small": ("uint8", (8, 8, 3)),
        "dot": ("uint8", (1, 1, 3)),
    }
