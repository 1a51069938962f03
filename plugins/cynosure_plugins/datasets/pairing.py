"""Which pictures in two folders belong together: one as it was taken, one as it should be."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cynosure.data.augment import resize_image
from cynosure.data.pictures import find_pictures, load_picture
from cynosure.errors import DataError
from cynosure_plugins.datasets.pixels import centre_box
from cynosure_plugins.datasets.splits import NAMES, assign

Folders = tuple[Path, Path]
"""Where the inputs are, and where their truths."""
WHITE_BALANCED = "_G_AS"
"""How Rendered-WB's truths end: `NAME_WB_PICSTYLE` is rendered right in `NAME_G_AS`."""
_RENDERED = re.compile(r"(.+)_[A-Z]_[A-Z0-9]+")
_RENDERED_CUBE = re.compile(r"(.+)_[TFDCS]")  # tungsten, fluorescent, daylight, cloudy, shade


@dataclass(frozen=True)
class Layout:
    """Folder names under a root; `splits` maps our splits to the folders around them, None: any usual name of one."""

    inputs: str
    targets: str
    splits: Mapping[str, str] | None = None

    def find(self, root: Path) -> dict[str, Folders]:
        """Folders by split: in `split/inputs` or `inputs/split`, else all in 'train'; empty if they are not there."""
        names = self.splits.values() if self.splits else [name for names in NAMES.values() for name in names]
        found: dict[str, Folders] = {}
        for name in names:
            for parent, child in ((root / name, ""), (root, name)):
                folders = parent / self.inputs / child, parent / self.targets / child
                if name not in found and all(folder.is_dir() for folder in folders):
                    found[name] = folders
        if found:
            given = self.splits or assign(found)
            return {ours: found[theirs] for ours, theirs in given.items() if theirs in found}
        whole = root / self.inputs, root / self.targets
        return {"train": whole} if all(folder.is_dir() for folder in whole) else {}

    def __str__(self) -> str:
        around = f"{next(iter(self.splits.values()))}/" if self.splits else ""
        return f"{around}{self.inputs}/ with {around}{self.targets}/"


LAYOUTS: Mapping[str, Sequence[Layout]] = {
    "fivek": (Layout("Inputs_jpg", "Experts_{expert}"),),
    "lol": (Layout("low", "high", {"train": "our485", "test": "eval15"}),),
    "rendered_wb": (Layout("input", "groundtruth"),),
    "folders": (Layout("low", "high"), Layout("input", "target"), Layout("inputs", "targets")),
}


def find_folders(root: Path, layouts: Sequence[Layout]) -> dict[str, Folders]:
    """Our splits -> folders of the first layout that lies at `root`; DataError says what was looked for."""
    if not root.is_dir():
        raise DataError(f"the folder '{root}' does not exist; set `root` to the folder of the pairs")
    found = next((folders for layout in layouts if (folders := layout.find(root))), None)
    if found is None:
        looked_for = "; ".join(str(layout) for layout in layouts)
        raise DataError(f"'{root}' has no folders of pairs (looked for {looked_for}); name yours: `inputs`, `targets`")
    return found


@dataclass(frozen=True)
class Pair:
    """The file of a picture as it was taken, and that of the good version of it."""

    degraded: Path
    image: Path

    def read(self, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """The row, uint8 [H, W, 3] each, at its own size or as the largest centred crop at `size`.

        Raises DataError for a picture that cannot be read, and for two of different height or width.
        """
        row = {"degraded": load_picture(self.degraded).image, "image": load_picture(self.image).image}
        (height, width), (high, wide) = (picture.shape[:2] for picture in row.values())
        if (height, width) != (high, wide):
            turned = (height < width) != (high < wide)
            advice = "turn one of them" if turned else "export both at one size"
            raise DataError(
                f"'{self.degraded}' is {width}x{height} pixels but its truth '{self.image}' is {wide}x{high}; {advice}"
            )
        if size:
            box = centre_box((height, width), size)
            row = {name: resize_image(picture, size, box=box) for name, picture in row.items()}
        return row

    def state(self) -> list[Any]:
        """What decides the row: the files, by size and time of change."""
        return [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in (self.degraded, self.image)]


def pair_up(folders: Folders) -> tuple[list[Pair], list[str]]:
    """Every input with its truth, in the order of the inputs' names, and a sentence about each picture left out.

    Raises DataError when no two pictures belong together.
    """
    inputs, targets = (_by_stem(folder) for folder in folders)
    if folders[0] == folders[1]:
        inputs = [(stem, file) for stem, file in inputs if not stem.endswith(WHITE_BALANCED)]
        targets = [(stem, file) for stem, file in targets if stem.endswith(WHITE_BALANCED)]
    left_out: list[str] = []
    truths: dict[str, Path] = {}
    for stem, file in targets:
        if truths.setdefault(stem, file) is not file:
            left_out.append(f"'{file}' has the name of '{truths[stem]}'")
    pairs: list[Pair] = []
    for stem, file in inputs:
        truth = next((truths[name] for name in _truth_names(stem) if name in truths), None)
        if truth is None:
            left_out.append(f"'{file}' has no partner in '{folders[1]}'")
        else:
            pairs.append(Pair(file, truth))
    if not pairs:
        raise DataError(f"no picture in '{folders[0]}' has the name of one in '{folders[1]}'; pairs have equal names")
    used = {pair.image for pair in pairs}
    left_out += [f"'{file}' has no partner in '{folders[0]}'" for file in truths.values() if file not in used]
    return pairs, left_out


def named_in(file: Path, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of all truths that a text file names, or an input of which it names; one a line, with any ending."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{file}' cannot be read: {error}; a list has one name a line") from error
    names = {name for line in lines for name in (Path(line).name, Path(line).stem)}
    found = {pair.image for pair in pairs if pair.degraded.stem in names or pair.image.stem in names}
    if not found:
        raise DataError(f"'{file}' names none of the {len(pairs)} pairs; a list has one name a line, such as the stem")
    return of_truths(pairs, found)


def of_truths(pairs: Sequence[Pair], truths: Collection[Path]) -> list[Pair]:
    """All pairs of some good pictures: renditions of one scene must not lie in two splits."""
    return [pair for pair in pairs if pair.image in truths]


def distinct_truths(pairs: Sequence[Pair]) -> list[Path]:
    """The good pictures, each once."""
    return list(dict.fromkeys(pair.image for pair in pairs))


def _by_stem(folder: Path) -> list[tuple[str, Path]]:
    return [(file.relative_to(folder).with_suffix("").as_posix(), file) for file in find_pictures([folder])]


def _truth_names(stem: str) -> Iterator[str]:
    """What the truth of an input may be called: as itself, or as in Rendered-WB Set1 and Cube+."""
    yield stem
    if match := _RENDERED.fullmatch(stem):
        yield match[1] + WHITE_BALANCED
    if match := _RENDERED_CUBE.fullmatch(stem):
        yield match[1]
