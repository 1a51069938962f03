"""Photographs are degraded as a camera would, the same way every time, and retouched into looks."""

import os
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from cynosure.errors import DataError
from cynosure_plugins.datasets.degraded import Degraded, Look
from cynosure_plugins.datasets.exposures import Exposure, gains_of, linear_to_srgb, srgb_to_linear
from cynosure_plugins.datasets.looks import LOOKS, in_look

DATA = Path(os.environ.get("CYNOSURE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
SPLITS = ("train", "validation", "test")
GREYS = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
PLAIN = {"shot": (0, 0), "read": (0, 0)}


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twenty photographs, all different."""
    root = tmp_path / "photos"
    root.mkdir()
    for n in range(20):
        pixels = np.random.default_rng(n).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{n:03}.png")
    return root


def degraded(source, photographs=None, **options) -> Degraded:
    return Degraded(Degraded.Config(photographs={"source": str(source), **(photographs or {})}, **options))


def taken(image, seed=0, **exposure) -> np.ndarray:
    return Exposure(**exposure).take(image, np.random.default_rng(seed))


def linear(image) -> np.ndarray:
    return srgb_to_linear(image / 255)


def test_the_camera_at_rest_changes_nothing():
    assert np.array_equal(taken(GREYS), GREYS)
    assert np.array_equal(taken(GREYS, shot=1e-12), GREYS), "the way of noise renders as the way without"
    assert np.allclose(linear_to_srgb(srgb_to_linear(np.linspace(0, 1, 99))), np.linspace(0, 1, 99), atol=1e-6)


@pytest.mark.parametrize("stops", [-3.0, -1.0, 0.5])
def test_a_stop_is_twice_the_light_and_what_is_too_bright_is_white(stops):
    expected = np.minimum(linear(GREYS) * 2**stops, 1)
    assert np.abs(taken(GREYS, stops=stops) / 255 - linear_to_srgb(expected)).max() < 0.6 / 255


def test_noise_has_the_variance_it_says():
    grey = np.full((200, 300, 3), 188, np.uint8)  # half of the light
    for shot, read in ((1e-3, 0.0), (0.0, 0.01), (1e-3, 0.01)):
        light = linear(taken(grey, shot=shot, read=read))
        assert light.mean() == pytest.approx(linear(grey).mean(), rel=0.01)
        assert light.var() == pytest.approx(shot * linear(grey).mean() + read**2, rel=0.05)
    dark = linear(taken(np.full_like(grey, 30), shot=1e-3)).var()
    assert dark < 0.1 * linear(taken(grey, shot=1e-3)).var(), "shot noise grows with the signal"


def test_light_is_on_the_planckian_locus():
    assert np.allclose(gains_of(6504), 1)
    for kelvin in (2000, 3000, 5000, 9000, 15000):
        assert np.dot(gains_of(kelvin), (0.2126, 0.7152, 0.0722)) == pytest.approx(1), "luminance stays"
    ratio = [gains_of(kelvin)[2] / gains_of(kelvin)[0] for kelvin in (2850, 3800, 5500, 6500, 7500)]
    assert ratio == sorted(ratio) and ratio[0] < 0.15 and ratio[-1] > 1, "low is red, high is blue"
    # Illuminant A, 2856 K: x 0.4476, y 0.4074; its linear sRGB over that of the light of 6504 K.
    light = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    a, b = (light @ np.array([x / y, 1, (1 - x - y) / y]) for x, y in ((0.4476, 0.4074), (0.3135, 0.3237)))
    assert np.allclose(np.array(gains_of(2856)), a / b / (a / b @ np.array([0.2126, 0.7152, 0.0722])), atol=0.01)
    assert gains_of(5000, 0.01)[1] > gains_of(5000)[1] > gains_of(5000, -0.01)[1], "greenish above, pinkish below"


def test_a_cast_is_a_gain_of_each_channel_in_linear_light():
    gains = gains_of(3500, 0.005)
    expected = np.minimum(linear(GREYS) * gains, 1)
    assert np.abs(taken(GREYS, gains=gains) / 255 - linear_to_srgb(expected)).max() < 0.6 / 255


def test_retouching_is_undone_in_tone_contrast_and_colour():
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    grey = taken(picture, saturation=0.0).astype(int)
    assert np.ptp(grey, axis=2).max() == 0
    luminance = linear(picture) @ (0.2126, 0.7152, 0.0722)
    assert np.abs(linear(grey)[..., 0] - luminance).max() < 0.01
    flat = taken(GREYS, contrast=0.5)
    assert flat.min() == 64 and flat.max() == 191
    assert taken(GREYS, gamma=1.4)[0, 128, 0] < 128 < taken(GREYS, gamma=0.8)[0, 128, 0]


def test_rows_are_darkened_photographs_and_the_same_every_time(folder):
    data = degraded(folder, exposure=(-3, -2))
    assert data.info.fields == ("degraded", "image")
    for split in SPLITS:
        again = degraded(folder, exposure=(-3, -2)).rows(split)
        rows = data.rows(split)
        assert len(rows) == data.count(split)
        for index in reversed(range(len(rows))):
            assert np.array_equal(rows[index]["degraded"], again[index]["degraded"]), "no order changes a row"
            assert linear(rows[index]["degraded"]).mean() < 0.3 * linear(rows[index]["image"]).mean()
    other = degraded(folder, exposure=(-3, -2), seed=1).rows("train")
    assert not np.array_equal(data.rows("train")[0]["degraded"], other[0]["degraded"])


def test_a_photograph_is_degraded_alike_wherever_it_lies(folder):
    def by_photograph(**photographs):
        data = degraded(folder, photographs)
        return {row["image"].tobytes(): row["degraded"].tobytes() for s in SPLITS for row in data.rows(s)}

    assert by_photograph() == by_photograph(seed=5, holdout=4)
    assert len(set(by_photograph().values())) == 20


def test_copies_differ_and_follow_their_photograph(folder):
    rows = degraded(folder, copies=3, kinds=["low_light"], **PLAIN).rows("train")
    assert len(rows) == 48
    for start in range(0, 48, 3):
        first, second, third = (rows[start + i] for i in range(3))
        assert np.array_equal(first["image"], third["image"])
        assert len({row["degraded"].tobytes() for row in (first, second, third)}) == 3


def test_kinds_come_together_and_each_draws_the_same_alone(folder):
    def draw(*kinds):
        config = degraded(folder, kinds=kinds, looks=1).config
        return config.draw(np.random.default_rng(3))

    low, cast, retouch = draw("low_light"), draw("color_cast"), draw("retouch")
    assert low.stops < 0 < low.shot and low.gains == (1, 1, 1) and low.gamma == 1
    assert cast.gains != (1, 1, 1) and cast.stops == 0 and retouch.saturation < 1 and retouch.read == 0
    assert draw("color_cast", "retouch", "low_light") == Exposure(
        low.stops, cast.gains, low.shot, low.read, retouch.saturation, retouch.gamma, retouch.contrast
    )
    assert draw() == Exposure()


def test_draws_stay_in_their_ranges(folder):
    config = degraded(folder, kinds=["low_light", "color_cast"], exposure=(-2, -1), temperature=(3000, 3000)).config
    for seed in range(50):
        exposure = config.draw(np.random.default_rng(seed))
        assert -2 <= exposure.stops <= -1 and 0 <= exposure.shot <= 2e-3
        assert gains_of(3000, -0.01)[2] >= exposure.gains[2] >= gains_of(3000, 0.01)[2]


def test_looks_are_answers_of_one_picture(folder):
    data = degraded(folder, kinds=[], looks=4)
    assert data.info.fields == ("degraded", "image", "label")
    assert [name for name, _ in data.info.classes] == ["neutral", "warm", "cool", "vivid"]
    rows = data.rows("test")
    assert len(rows) == 8 == data.count("test")
    for index, row in enumerate(rows):
        assert row["label"] == index % 4
        assert np.array_equal(row["degraded"], rows[index - index % 4]["image"]), "neutral is the photograph"
        assert np.array_equal(row["image"], in_look(row["degraded"], data.config.looks[row["label"]]))
    dark = degraded(folder, looks=["cool", "faded"], copies=2).rows("test")
    assert len(dark) == 8 and np.array_equal(dark[0]["degraded"], dark[1]["degraded"])
    assert not np.array_equal(dark[0]["degraded"], dark[2]["degraded"]), "the next copy"


def test_looks_are_what_their_names_say():
    assert Look.__args__ == tuple(LOOKS), "the option and the table name the same looks"
    grey = np.full((1, 1, 3), 128, np.uint8)
    color = np.array([[[180, 110, 60]]], np.uint8)
    red, _, blue = in_look(grey, "warm")[0, 0].astype(int)
    assert red > 128 > blue
    red, _, blue = in_look(grey, "cool")[0, 0].astype(int)
    assert red < 128 < blue
    assert np.ptp(in_look(color, "vivid")) > np.ptp(color) > np.ptp(in_look(color, "faded"))
    assert in_look(GREYS, "faded").min() > 30 and in_look(GREYS, "faded").max() < 230
    for name in LOOKS:
        tones = in_look(GREYS, name).astype(int)
        assert (np.diff(tones, axis=1) >= 0).all(), f"{name} turns tones around"
    steep = in_look(GREYS, "contrast").astype(int)
    assert steep[0, 64, 0] < 60 and steep[0, 192, 0] > 196 and steep[0, 0, 0] == 0 and steep[0, 255, 0] == 255


def test_damaged_photographs_are_named_and_rows_can_be_sent_to_workers(folder, caplog):
    (folder / "bad.png").write_text("no picture")
    for size in (None, 4):
        data = degraded(folder, {"size": size})
        parts = [data.rows(split) for split in SPLITS]
        assert sum(map(len, parts)) == 20 and sum(len(part.skipped) for part in parts) == 1
        sent = pickle.loads(pickle.dumps(parts[0]))
        assert np.array_equal(sent[0]["degraded"], parts[0][0]["degraded"])
    assert "bad.png" in caplog.text
    with pytest.raises(DataError, match="no split is named"):
        data.rows("dev")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": []}, "kinds and looks are both empty"),
        ({"exposure": (-1, -4)}, "lowest, highest"),
        ({"temperature": (500, 6000)}, "1700"),
        ({"looks": ["sepia"]}, "neutral"),
        ({"looks": 7}, "looks"),
        ({"photographs": {"source": "x", "streaming": True}}, "set streaming to false"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Degraded.Config(**{"photographs": {"source": "x"}, **options})


@pytest.mark.skipif(not (DATA / "lowlight").is_dir(), reason="the photographs are not at $CYNOSURE_DATA")
def test_real_photographs(tmp_path):
    rows = degraded(DATA / "lowlight", {"size": (48, 64), "holdout": 2}, kinds=["low_light", "color_cast"]).rows(
        "train"
    )
    assert len(rows) == 12
    for row in rows:
        assert row["degraded"].shape == row["image"].shape == (48, 64, 3)
        assert linear(row["degraded"]).mean() < 0.8 * linear(row["image"]).mean()


def test_rows_say_what_they_are_made_from(folder):
    """Kept codes are those of these photographs: a repaired one must change what their rows are known by."""
    before = degraded(folder).rows("train").key
    assert before and degraded(folder).rows("train").key == before
    Image.new("RGB", (24, 20), (9, 9, 9)).save(folder / "005.png")
    assert degraded(folder).rows("train").key != before
