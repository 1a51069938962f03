"""Panoptic segmentation in the COCO layout: pictures, id PNGs (id = R + 256 G + 65536 B) and one JSON a split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cynosure import hookimpl
from cynosure.core.contracts import DatasetInfo, PartConfig
from cynosure.data.augment import resize_image, resize_nearest
from cynosure.data.files import rgb_to_ids
from cynosure.data.pictures import load_picture
from cynosure.errors import DataError
from cynosure_plugins.datasets.coco_classes import COCO_PANOPTIC
from cynosure_plugins.datasets.pixels import Size, height_width
from cynosure_plugins.datasets.rows import LiveRows, StoredRows
from cynosure_plugins.datasets.splits import SPLITS, Holdout, SplitDataset, hold_out, spread
from cynosure_plugins.datasets.store import key_of, read_all

Split = Literal["train", "validation", "test"]
ID_END = 1 << 24
"""The first segment id that no colour stands for."""
FOLDERS = {"train": ("train2017", "train"), "validation": ("val2017", "val", "validation"), "test": ("test",)}


class Source(PartConfig):
    """Where one split lies: folders and a file, relative to the root."""

    images: str
    panoptic: str
    annotations: str = Field(alias="json")


@dataclass(frozen=True)
class Entry:
    """One annotated picture, `image_id` in the JSON; `segments` maps its segment ids to (class, instance, crowd class):
    instances counted from 1, of a crowd only the last is not 0."""

    image: Path
    panoptic: Path
    image_id: int
    segments: Mapping[int, tuple[int, int, int]]

    def read(self, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """The row at its own or the given size: image uint8 [H, W, 3], panoptic int32 [H, W, 2], crowd int32 [H, W]."""
        image = load_picture(self.image).image
        colours = load_picture(self.panoptic).image
        if colours.shape != image.shape:
            raise DataError(
                f"'{self.panoptic}' is {colours.shape[1]}x{colours.shape[0]} pixels "
                f"but its picture is {image.shape[1]}x{image.shape[0]}"
            )
        ids = rgb_to_ids(colours)
        if self.segments and not np.isin(ids, list(self.segments)).any():
            raise DataError(
                f"'{self.panoptic}' holds none of its segments' ids (R + 256 G + 65536 B of its colours): take the PNG "
                "that belongs to the JSON"
            )
        if size:
            image, ids = resize_image(image, size), resize_nearest(ids, size)
        labels = self._labels(ids)
        names = {"image_id": self.image_id, "file_name": self.panoptic.name}
        return {"image": image, "panoptic": labels[..., :2], "crowd": labels[..., 2], **names}

    def state(self) -> list[Any]:
        """What decides the row: the files, by size and time of change, and the segments."""
        files = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in (self.image, self.panoptic)]
        return [files, self.image_id, list(self.segments.items())]

    def _labels(self, ids: np.ndarray) -> np.ndarray:
        """Segment ids int32 [H, W] -> (class, instance, crowd) int32 [H, W, 3]; ids that are not listed are void."""
        known = np.array(sorted(self.segments), dtype=np.int32)
        if not len(known):
            return np.zeros((*ids.shape, 3), dtype=np.int32)
        labels = np.array([self.segments[i] for i in known.tolist()], dtype=np.int32)
        where = np.searchsorted(known, ids).clip(max=len(known) - 1)
        return labels[where] * (known[where] == ids)[..., None]


class CocoPanoptic(SplitDataset[LiveRows | StoredRows]):
    """COCO panoptic, and any set in its layout (Cityscapes, ADE20K and Mapillary are published in it).

    Layout, found by itself: pictures in `train2017/`, PNGs in `panoptic_train2017/`, `panoptic_train2017.json` in the
    root or in `annotations/`, likewise `val2017`; or the short names `train`, `panoptic_train`, `val`, `panoptic_val`.
    Anything else is named by `splits`. Where only training and validation data exist, as in COCO, `test` is the
    official validation set and `validation` is held out from training, so that choices never see the test.

    Classes are 1..n in the order of the JSON's categories. Pixels of no segment and of crowd regions (`iscrowd`) are
    void; `crowd` has the class of the latter, which the official evaluation tells from void. A row's instance is the
    segment's position in its list, from 1; `image_id` and `file_name` are those of the JSON's annotation.
    """

    class Config(PartConfig):
        root: str
        splits: Mapping[Split, Source] | None = None
        categories: Literal["coco"] | None = None
        """'coco' declares the 133 categories of COCO 2017 without opening a file; the files must then have them."""
        size: Size | None = None
        """Keep rows decoded at this size: the whole picture, antialiased, labels by nearest; null reads the files."""
        holdout: Holdout = 0.1
        """Part of the training data held out (at most 1000 rows), or how many rows, for a split that has no files."""
        limit: int | None = Field(None, ge=1)
        """At most so many rows of each split."""
        seed: int = 0

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.root = Path(config.root).expanduser()
        self._last: tuple[Path, dict[str, Any]] | None = None
        self._loaded: dict[str, tuple[list[Entry], list[str]]] = {}

    @cached_property
    def info(self) -> DatasetInfo:
        return DatasetInfo(
            name="coco_panoptic",
            fields=("image", "panoptic", "crowd", "image_id", "file_name"),
            classes=tuple((c["name"], bool(c.get("isthing", 1))) for c in self._categories),
            category_ids=tuple(c["id"] for c in self._categories),
        )

    def count(self, split: str) -> int:
        """Rows of a split, from the annotations alone."""
        return len(spread(len(self._entries(split)[0]), self.config.limit))

    def _read(self, split: str) -> LiveRows | StoredRows:
        title = f"{self.root.name} {split}"
        entries, missing = self._entries(split)
        entries = [entries[i] for i in spread(len(entries), self.config.limit)]
        key = key_of("coco_panoptic", self.config.size, [entry.state() for entry in entries])
        if self.config.size is None:
            return LiveRows(title, key, len(entries), partial(_read_at, entries, None), missing)
        size = height_width(self.config.size)
        fields = {"image": ((*size, 3), np.uint8), "panoptic": ((*size, 2), np.uint16), "crowd": (size, np.uint16)}
        dtypes = {"panoptic": np.int32, "crowd": np.int32}
        read = partial(_read_at, entries, size)
        return StoredRows(title, key, len(entries), lambda: read_all(len(entries), read), fields, dtypes, missing)

    def _entries(self, split: str) -> tuple[list[Entry], list[str]]:
        """What a split has, and sentences about its missing files; held out of training where it has no files."""
        absent = [name for name in SPLITS[1:] if name not in self._sources]
        if "train" not in self._sources or split not in ("train", *absent):
            return self._load(split)
        entries, missing = self._load("train")
        if not entries:
            return entries, missing
        part = hold_out((entry.image.name for entry in entries), absent, self.config.holdout, self.config.seed)[split]
        return [entries[i] for i in part], missing if split == "train" else []

    def _load(self, split: str) -> tuple[list[Entry], list[str]]:
        """What the files of a split hold, read once: held-out splits share those of training."""
        if split not in self._loaded:
            self._loaded[split] = self._entries_of(split)
            self._last = None  # COCO's takes gigabytes, and entries hold what rows need
        return self._loaded[split]

    def _entries_of(self, split: str) -> tuple[list[Entry], list[str]]:
        if split not in self._sources:
            have = ", ".join(self._sources)
            raise DataError(f"'{self.root}' has no {split} data (found {have}); name its files with `splits.{split}`")
        source = self._sources[split]
        file = self.root / source.annotations
        document = self._document(file)
        classes = {c["id"]: i for i, c in enumerate(self._categories, start=1)}
        if self.config.categories and [c["id"] for c in document.get("categories", ())] != list(classes):
            raise DataError(f"'{file}' has other categories than COCO 2017; take `categories: coco` out of the recipe")
        images = [(_field(i, "file_name", str, "an image", file), i.get("id")) for i in document.get("images", ())]
        pictures = {number: name for name, number in images}
        entries, missing = [], []
        for annotation in document["annotations"]:
            if lacking := {"file_name", "segments_info", "image_id"} - set(annotation):
                raise DataError(
                    f"'{file}' has annotations without {', '.join(sorted(lacking))}, as the JSON of instances has; "
                    "give the panoptic JSON"
                )
            png = self.root / source.panoptic / annotation["file_name"]
            name = pictures.get(annotation["image_id"], f"{png.stem}.jpg")
            segments = _segments(annotation, classes, file)
            entry = Entry(self.root / source.images / name, png, annotation["image_id"], segments)
            absent = next((p for p in (entry.image, entry.panoptic) if not p.is_file()), None)
            if absent is None:
                entries.append(entry)
            else:
                missing.append(f"'{absent}' does not exist")
        return entries, missing

    def _document(self, file: Path) -> dict[str, Any]:
        """The JSON of a split; kept until its entries are read, since classes come first."""
        if self._last is None or self._last[0] != file:
            self._last = (file, _read_json(file))
        return self._last[1]

    @cached_property
    def _categories(self) -> list[dict[str, Any]]:
        if self.config.categories == "coco":
            return [{"id": number, "name": name, "isthing": thing} for number, name, thing in COCO_PANOPTIC]
        source = self._sources.get("train") or next(iter(self._sources.values()))
        file = self.root / source.annotations
        categories = self._document(file).get("categories")
        if not categories:
            raise DataError(f"'{file}' lists no categories; use the JSON that was published with the PNGs")
        for category in categories:
            _field(category, "name", str, "a category", file)
        numbers = [_field(category, "id", int, "a category", file) for category in categories]
        if twice := [number for number, times in Counter(numbers).items() if times > 1]:
            raise DataError(f"'{file}' has several categories with the id {twice[0]}: give each its own")
        return categories

    @cached_property
    def _sources(self) -> Mapping[str, Source]:
        if self.config.splits:
            return {str(split): source for split, source in self.config.splits.items()}
        if not self.root.is_dir():
            raise DataError(f"the folder '{self.root}' does not exist; set `root` to the folder of the dataset")
        found = {split: source for split, names in FOLDERS.items() if (source := self._find(names))}
        if not found:
            raise DataError(
                f"'{self.root}' is not in the COCO panoptic layout (train2017/, panoptic_train2017/, "
                "panoptic_train2017.json, or the same with 'train'); name the files with `splits`"
            )
        if "test" not in found and "validation" in found and "train" in found:
            found["test"] = found.pop("validation")
        return found

    def _find(self, names: Sequence[str]) -> Source | None:
        for name in names:
            for folder, file in product((f"panoptic_{name}", f"annotations/panoptic_{name}"), repeat=2):
                parts = {"images": name, "panoptic": folder, "json": f"{file}.json"}
                if all((self.root / part).exists() for part in parts.values()):
                    return Source.model_validate(parts)
        return None


def _read_at(entries: Sequence[Entry], size: tuple[int, int] | None, index: int) -> dict[str, Any]:
    return entries[index].read(size)


def _segments(annotation: Mapping[str, Any], classes: Mapping[int, int], file: Path) -> dict[int, tuple[int, int, int]]:
    segments = {}
    what = f"a segment of '{annotation['file_name']}'"
    listed = _field(annotation, "segments_info", list, f"an annotation of '{annotation['file_name']}'", file)
    for number, segment in enumerate(listed, start=1):
        category = _field(segment, "category_id", int, what, file)
        if not 0 <= _field(segment, "id", int, what, file) < ID_END:
            raise DataError(f"'{file}' has {what} with the id {segment['id']}; the PNGs' colours end at {ID_END - 1}")
        if category not in classes:
            known = ", ".join(map(str, classes))
            raise DataError(
                f"'{file}' gives segment {segment['id']} of '{annotation['file_name']}' the category {category}, "
                f"which is not among its categories ({known}); add it there or correct the segment"
            )
        label = classes[category]
        segments[segment["id"]] = (0, 0, label) if segment.get("iscrowd") else (label, number, 0)
    return segments


def _field(entry: Any, name: str, kind: type, what: str, file: Path) -> Any:
    """A value of an entry; DataError, which says `what` the entry is, where it is missing or of another kind."""
    value = entry.get(name) if isinstance(entry, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"'{file}' has {what} whose {name} is {value!r}, and must be of type {kind.__name__}")
    return value


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"'{file}' does not exist; check `root` and `splits`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"'{file}' cannot be read as JSON: {error}") from error
    if not isinstance(document, dict) or "annotations" not in document:
        raise DataError(f"'{file}' has no annotations; it should be a COCO panoptic JSON")
    return document


@hookimpl
def cynosure_register(register: Any) -> None:
    register.dataset("coco_panoptic", CocoPanoptic)
