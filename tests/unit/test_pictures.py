"""Whatever picture a user has becomes upright uint8 RGB, or one sentence that names it."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from cynosure.data import pictures
from cynosure.data.pictures import find_pictures, load_picture, sample_photographs
from cynosure.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_file_bytes_pil_array_and_tensor_give_the_same_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    tensor = torch.from_numpy(RGB).permute(2, 0, 1) / 255
    for source in (path, str(path), path.read_bytes(), Image.open(path), RGB, RGB / 255, tensor):
        picture = load_picture(source)
        assert picture.image.dtype == np.uint8 and picture.image.shape == (20, 30, 3) == (*picture.size, 3)
        assert (picture.image == RGB).all(), f"{type(source).__name__} changed the pixels"
        assert picture.alpha is None and picture.bits == 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_pillow_mode_becomes_rgb(mode):
    image = Image.fromarray(RGB).convert("P") if mode in ("P", "PA") else Image.fromarray(RGB)
    picture = load_picture(image if mode == "P" else image.convert(mode) if mode != "LAB" else _lab(image))
    assert picture.image.shape == (20, 30, 3) and picture.image.dtype == np.uint8
    assert (picture.alpha is not None) == mode.endswith("A")


def _lab(image):
    from PIL import ImageCms

    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")


def test_cmyk_jpeg_keeps_its_colour():
    flat = Image.new("RGB", (16, 16), (200, 40, 40)).convert("CMYK")
    image = load_picture(encoded(flat, "JPEG")).image
    assert abs(image.reshape(-1, 3).mean(0) - (200, 40, 40)).max() < 12, "a red CMYK picture should stay red"


def test_alpha_is_kept_apart_for_rgba_and_palette_transparency():
    alpha = np.tile(np.arange(30, dtype=np.uint8) * 8, (20, 1))
    picture = load_picture(encoded(Image.fromarray(np.dstack([RGB, alpha]))))
    assert (picture.alpha == alpha).all() and (picture.image == RGB).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    picture = load_picture(encoded(palette, transparency=1))
    assert picture.alpha is not None and not picture.alpha.any()
    assert (picture.image == (0, 0, 255)).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    deep = (GREY.astype(np.uint16)) * 257
    picture = load_picture(encoded(Image.fromarray(deep), kind))
    assert picture.bits == 16
    assert (picture.image == GREY[..., None]).all(), "65535 is white and 257 is one step"


def test_arrays_of_16_bits_and_one_or_four_channels():
    deep = np.dstack([RGB, np.full((20, 30), 128, np.uint8)]).astype(np.uint16) * 257
    picture = load_picture(deep)
    assert picture.bits == 16 and (picture.image == RGB).all() and (picture.alpha == 128).all()
    assert (load_picture(GREY).image == load_picture(GREY[..., None]).image).all()


def test_16_bits_are_kept_where_they_are_wanted():
    deep = np.dstack([RGB, GREY]).astype(np.uint16) * 256 + 3
    for source in (deep, imagecodecs.png_encode(deep), tiff(deep)):
        picture, shallow = load_picture(source, bits=16), load_picture(source)
        assert (picture.image == deep[..., :3]).all() and (picture.alpha == deep[..., 3]).all() and picture.bits == 16
        assert shallow.image.dtype == shallow.alpha.dtype == np.uint8
        assert abs(shallow.image - RGB.astype(int)).max() <= 1
    assert load_picture(RGB, bits=16).image.dtype == np.uint8, "8 bits are no more for being asked for"
    assert (load_picture(deep / np.float32(65535), bits=16).image == deep[..., :3]).all()


def tiff(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation):
    upright = Image.fromarray(RGB)
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (load_picture(encoded(stored, exif=exif)).image == RGB).all()
    deep = tiff(np.asarray(stored).astype(np.uint16) * 257, extratags=[(0x0112, 3, 1, orientation, True)])
    assert (load_picture(deep, bits=16).image == RGB * np.uint16(257)).all()


def test_one_pixel_and_long_pictures():
    assert load_picture(encoded(Image.new("L", (1, 1), 7))).image.tolist() == [[[7, 7, 7]]]
    assert load_picture(encoded(Image.new("RGB", (3000, 1)))).size == (1, 3000)


def test_unreadable_files_are_named_in_one_sentence(tmp_path):
    whole = encoded(Image.fromarray(RGB), "JPEG")
    broken = {
        "empty.jpg": (b"", "empty"),
        "text.png": (b"hello, I am text", "not a picture"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "cut.png": (encoded(Image.fromarray(RGB))[:300], "truncated"),
    }
    for name, (data, reason) in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=reason) as error:
            load_picture(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"gone\.jpg' does not exist"):
        load_picture(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="cannot be read: embedded null byte"):
        load_picture("photo\0.jpg")
    with pytest.raises(DataError, match="is a folder"):
        load_picture(tmp_path)


def test_a_damaged_pil_image_is_named_too(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(encoded(Image.fromarray(RGB), "JPEG")[:-40])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(DataError, match=r"cut\.jpg' is truncated"):
        load_picture(image)


def test_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    bomb = encoded(Image.new("1", (20000, 20000)))
    with pytest.raises(DataError, match="million pixels"):
        load_picture(bomb, "bomb.png")
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match=r"small\.png.*million pixels"):
        load_picture(encoded(Image.fromarray(RGB)), "small.png")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4, 3), 2.0), r"0\.\.1"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (torch.zeros(2, 4, 4), "shape"),
        (42, "not int"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(source, reason):
    with pytest.raises(DataError, match=reason):
        load_picture(source)


def test_find_pictures_takes_files_folders_and_globs_once_and_sorted(tmp_path):
    for name in ("b.jpg", "a.PNG", "deep/c.webp", "notes.txt", ".hidden.jpg", "x[1].jpg", "raw.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = [p.relative_to(tmp_path).as_posix() for p in find_pictures([tmp_path])]
    assert names == ["a.PNG", "b.jpg", "deep/c.webp", "x[1].jpg"]
    found = find_pictures([f"{tmp_path}/*.jpg", tmp_path / "b.jpg", tmp_path / "x[1].jpg", tmp_path / "raw.dat"])
    assert [p.name for p in found] == ["b.jpg", "x[1].jpg", "raw.dat"], "a named file counts whatever its suffix"


def test_find_pictures_says_what_it_did_not_find(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    for pattern in (tmp_path, tmp_path / "gone.jpg", f"{tmp_path}/*.png"):
        with pytest.raises(DataError, match=r"no picture|no file"):
            find_pictures([pattern])
    with pytest.raises(DataError, match="no picture was named"):
        find_pictures([])
    with pytest.raises(DataError, match="File name too long"):
        find_pictures(["x" * 300])


def test_sample_photographs_come_with_an_installed_package():
    samples = dict(sample_photographs())
    assert {"astronaut", "coffee", "chelsea"} <= set(samples)
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.std() > 20 for image in samples.values())
