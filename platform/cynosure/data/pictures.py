"""Any picture a user may have -> RGB of 8 bits, or of 16, or one number a pixel: files, bytes, PIL images, arrays and
tensors."""

from __future__ import annotations

import glob
import io
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps

from cynosure.errors import DataError

if TYPE_CHECKING:
    import torch

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"})
MAX_PIXELS = 178_956_970
"""Pictures beyond this are refused: a small file can claim a size that fills the memory."""
SAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")

Bits = Literal[8, 16]

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error)
_ORIENTATION, _BITS_PER_SAMPLE, _PLANES, _APART = 0x0112, 258, 284, 2
"""Tags of EXIF and of TIFF, and the value that says that colours are stored one after another."""


@dataclass(frozen=True)
class Picture:
    """`image` [H, W, 3] upright RGB, `alpha` [H, W] or None, `bits` per channel of the source, `name`.

    Both are uint8, or uint16 where the source has more than 8 bits and 16 are wanted.
    """

    image: np.ndarray
    alpha: np.ndarray | None
    bits: Bits
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image.shape[0], self.image.shape[1]


def load_picture(
    source: str | Path | bytes | Image.Image | np.ndarray | torch.Tensor, name: str | None = None, bits: Bits = 8
) -> Picture:
    """One picture from a file, encoded bytes, a PIL image, an array or a tensor; `name` is used in messages.

    Files and PIL images: any mode, 8 or 16 bits, turned upright as EXIF says. Arrays: [H, W] or [H, W, 1 | 3 | 4],
    uint8, uint16, bool or float in 0..1. Tensors: the same values as [H, W] or [1 | 3 | 4, H, W]. Colours under
    transparent pixels are kept as they are stored. More than 8 bits are scaled to 8 (65535 is 255); with `bits=16` they
    are kept, but for PIL images in colour, which never have them.

    Raises DataError, naming the picture, when it is missing, empty, truncated, no picture at all or too large.
    """
    if isinstance(source, (str, Path)):
        name = name or str(source)
        return _from_bytes(_contents(Path(source).expanduser(), name), name, bits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), name or f"the {len(source)} bytes", bits)
    if isinstance(source, Image.Image):
        name = name or str(getattr(source, "filename", "") or "the PIL image")
        with _damage_told(name):
            return _from_pil(source, name, bits)
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "the array", bits)
    if hasattr(source, "detach") and hasattr(source, "cpu"):
        return _from_tensor(source, name or "the tensor", bits)
    raise DataError(
        f"a picture is a path, bytes, a PIL image, a numpy array or a torch tensor, not {type(source).__name__}"
    )


def load_map(
    source: str | Path | bytes | Image.Image | np.ndarray | torch.Tensor, name: str | None = None
) -> np.ndarray:
    """One number a pixel, [H, W], as it is stored: class numbers in grey or of a palette, depths of 8, 16 or 32 bits.

    Arrays and tensors are taken as they are. Raises DataError, naming the map, for one that is missing, damaged or in
    colour.
    """
    if isinstance(source, np.ndarray):
        return source
    if hasattr(source, "detach") and hasattr(source, "cpu"):
        return source.detach().cpu().numpy()
    if isinstance(source, (str, Path)):
        return load_map(_contents(Path(source).expanduser(), name or str(source)), name or str(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        name = name or f"the {len(source)} bytes"
        _require_content(bytes(source), name)
        with _damage_told(name), Image.open(io.BytesIO(source)) as image:
            return load_map(image, name)
    if not isinstance(source, Image.Image):
        raise DataError(f"a map is a path, bytes, a PIL image, an array or a tensor, not {type(source).__name__}")
    name = name or str(getattr(source, "filename", "") or "the PIL image")
    _check_size(source, name)
    with _damage_told(name):
        numbers = np.array(source)
    if numbers.ndim == 2:
        return numbers
    colours = numbers[..., : len(source.getbands()) - (source.getbands()[-1] in "Aa")]
    if (colours != colours[..., :1]).any():
        raise DataError(f"'{name}' is in colour; a map has one number a pixel: save it in grey or with a palette")
    return colours[..., 0]


def find_pictures(patterns: Sequence[str | Path]) -> list[Path]:
    """Picture files named by files, folders (searched recursively, sorted) and globs, each once, in the order given.

    A file that is named is taken whatever its suffix; folders and globs give files with a picture suffix that are not
    hidden. Raises DataError for a pattern that finds nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        try:
            found.update(dict.fromkeys(_matches(path, pattern)))
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise DataError(f"'{pattern}' cannot be looked for: {error.strerror}; check the path") from error
    if not found:
        raise DataError("no picture was named; give files, folders or globs such as 'photos/*.jpg'")
    return list(found)


def _matches(path: Path, pattern: str | Path) -> list[Path]:
    if path.is_dir():
        matches = sorted(p for p in path.rglob("*") if _is_picture(p))
        if not matches:
            raise DataError(f"the folder '{pattern}' holds no picture (looked for {_suffix_list()})")
        return matches
    if path.exists():
        return [path]
    matches = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if _is_picture(p))
    if not matches:
        raise DataError(f"'{pattern}' is no file or folder, and no picture matches it; check the path")
    return matches


def sample_photographs() -> list[tuple[str, np.ndarray]]:
    """(name, uint8 [H, W, 3]) of the photographs that scikit-image installs; nothing is downloaded.

    Raises DataError when the installed scikit-image brings none.
    """
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    files = [folder / file for file in SAMPLES if (folder / file).is_file()]
    if not files:
        raise DataError("the installed scikit-image carries no photographs; run `pip install 'scikit-image>=0.22'`")
    return [(file.stem, load_picture(file).image) for file in files]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _suffix_list() -> str:
    return " ".join(sorted(SUFFIXES))


def to_uint8(levels: np.ndarray) -> np.ndarray:
    """Levels uint8 as they are, uint16 rounded to 8 bits."""
    return levels if levels.dtype == np.uint8 else ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _contents(path: Path, name: str) -> bytes:
    """What a file holds."""
    try:
        if path.is_dir():
            raise DataError(f"'{name}' is a folder, not a picture")
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"'{name}' does not exist; check the path") from None
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        raise DataError(f"'{name}' cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return data


def _require_content(data: bytes, name: str) -> None:
    if not data:
        raise DataError(f"'{name}' is empty (0 bytes); fetch or export it again")


def _from_bytes(data: bytes, name: str, bits: Bits) -> Picture:
    _require_content(data, name)
    with _damage_told(name), warnings.catch_warnings():
        # Our own limit follows; Pillow's advice on large or odd files would only repeat it.
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image, name)
            if bits == 16 and image.mode in {"RGB", "RGBA"} and _is_deep(image):
                return _from_array(_decoded(data, image), name, bits)
            return _from_pil(image, name, bits)


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """What Pillow raises for a picture that it cannot decode, as a DataError with the picture's name."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise DataError(f"'{name}' is not a picture in a known format") from None
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except _UNREADABLE as error:
        raise DataError(f"'{name}' is truncated or damaged ({error}); fetch or export it again") from error


def _is_deep(image: Image.Image) -> bool:
    """Whether an opened file has 16 bits per channel, which Pillow itself drops from pictures in colour."""
    if image.format == "TIFF":
        return 16 in np.atleast_1d(_tag(image, _BITS_PER_SAMPLE))
    return any(";16" in str(part) for tile in getattr(image, "tile", ()) for part in tile[3:])


def _decoded(data: bytes, image: Image.Image) -> np.ndarray:
    """The pixels of a file in colour, uint16 [H, W, 3 | 4], upright; `image` is what Pillow says about it."""
    import imagecodecs

    decode = imagecodecs.tiff_decode if image.format == "TIFF" else imagecodecs.png_decode
    try:
        pixels = decode(data)
    except RuntimeError as error:
        raise ValueError(error) from error
    if _tag(image, _PLANES) == _APART:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1), lambda stored: stored)(pixels)


_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
"""What undoes the orientation of EXIF."""


def _tag(image: Image.Image, number: int) -> Any:
    """What a TIFF file says under a number, 0 where it says nothing or is of another format."""
    return getattr(image, "tag_v2", {}).get(number, 0)


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name)
    if image.width * image.height == 0:
        raise DataError(f"'{name}' has no pixels ({image.width}x{image.height})")


def _from_pil(image: Image.Image, name: str, bits: Bits) -> Picture:
    _check_size(image, name)
    deep = _is_deep(image)
    try:
        image = ImageOps.exif_transpose(image)
    except _UNREADABLE:
        image.load()  # Broken EXIF is no reason to refuse the pixels; broken pixels raise here.
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return _from_deep(np.asarray(image), name, bits)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    return Picture(np.array(image.convert("RGB")), alpha, 16 if deep else 8, name)


def _from_deep(grey: np.ndarray, name: str, bits: Bits) -> Picture:
    """Grey [H, W] of more than 8 bits: integers in 0..65535, or floats in 0..1."""
    if grey.dtype.kind == "f":
        return _from_array(grey, name, bits)
    if grey.min() < 0 or grey.max() > 65535:
        raise DataError(f"'{name}' holds values outside 0..65535; save it with 8 or 16 bits per channel")
    return _from_array(grey.astype(np.uint16), name, bits)


def _from_tensor(tensor: Any, name: str, bits: Bits) -> Picture:
    array = tensor.detach().cpu()
    array = array.float().numpy() if array.is_floating_point() else array.numpy()
    if array.ndim == 3:
        if array.shape[0] not in (1, 3, 4):
            raise DataError(f"{name} has shape {list(array.shape)}; a picture is [H, W] or [1 | 3 | 4, H, W]")
        array = array.transpose(1, 2, 0)
    return _from_array(array, name, bits)


def _from_array(array: np.ndarray, name: str, bits: Bits) -> Picture:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise DataError(f"{name} has shape {list(array.shape)}; a picture is [H, W] or [H, W, 1 | 3 | 4]")
    if array.size == 0:
        raise DataError(f"{name} has no pixels (shape {list(array.shape)})")
    pixels, source_bits = _levels(array if array.ndim == 3 else array[..., None], name, bits)
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    colours = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
    return Picture(np.array(colours, order="C"), alpha, source_bits, name)


def _levels(array: np.ndarray, name: str, bits: Bits) -> tuple[np.ndarray, Bits]:
    """uint8, or uint16 where there are more levels and 16 bits are wanted; and the bits of the source."""
    if array.dtype == np.uint8:
        return array, 8
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255, 8
    if array.dtype == np.uint16:
        return array if bits == 16 else to_uint8(array), 16
    if array.dtype.kind != "f":
        raise DataError(f"{name} holds {array.dtype}; a picture is uint8, uint16 or float in 0..1")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise DataError(
            f"{name} holds NaN or infinite values; a picture of floats lies in 0..1: put numbers in, "
            "as numpy.nan_to_num does"
        )
    if low < -1e-3 or high > 1 + 1e-3:
        raise DataError(f"{name} holds values in {low:g}..{high:g}; a picture of floats lies in 0..1")
    most, kind = (65535, np.uint16) if bits == 16 else (255, np.uint8)
    return (np.clip(array.astype(np.float32), 0, 1) * most + 0.5).astype(kind), 8


def _too_large(name: str) -> DataError:
    return DataError(f"'{name}' has more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller first")
