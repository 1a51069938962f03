"""Checks of datasets: rows in canonical forms, the same every time, no row in two splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from cynosure.core.contracts import Dataset
from cynosure.errors import DataError
from cynosure.testing.checks import Subject, check

SPLITS = ("train", "validation", "test")
LOOK_AT = 4
NAMES = ("image_id", "file_name")


def _rows(dataset: Dataset, split: str) -> list[Mapping[str, Any]]:
    return list(islice(iter(dataset.rows(split)), LOOK_AT))


def _splits(dataset: Dataset) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """The splits that the dataset has, with their first rows."""
    for split in SPLITS:
        try:
            yield split, _rows(dataset, split)
        except DataError:
            assert split != "train", "there is no split 'train'"


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3


def _is_panoptic(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == 3 and value.shape[2] == 2


def _is_map(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == 2


def _is_depth(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim == 2 and bool((value >= 0).all())


def _is_list(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.int64 and value.ndim == 1


FORMS = {
    "image": (_is_picture, "uint8 [H, W, 3]"),
    "degraded": (_is_picture, "uint8 [H, W, 3]"),
    "panoptic": (_is_panoptic, "int [H, W, 2]"),
    "crowd": (_is_map, "int [H, W]"),
    "depth": (_is_depth, "float32 [H, W] in metres, 0 where missing"),
    "caption": (lambda value: isinstance(value, str), "str"),
    "factors": (_is_list, "int64 [S]"),
    "label": (lambda value: isinstance(value, (int, np.integer)), "int"),
    "image_id": (lambda value: isinstance(value, (int, np.integer)), "int"),
    "file_name": (lambda value: isinstance(value, str), "str"),
}


@check("dataset")
def rows_have_canonical_forms(subject: Subject) -> None:
    dataset = subject.build()
    for split, rows in _splits(dataset):
        assert rows, f"split {split} holds no row; raise DataError instead"
        for row in rows:
            missing = [name for name in dataset.info.fields if name not in row]
            assert not missing, f"a row of {split} lacks {', '.join(missing)}, which info.fields promises"
            for name, (fits, form) in FORMS.items():
                if name in dataset.info.fields:
                    value = row[name]
                    found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)
                    assert fits(value), f"{name} must be {form}, not {found}"


@check("dataset")
def maps_have_the_image_s_size(subject: Subject) -> None:
    for _, rows in _splits(subject.build()):
        for row in rows:
            for name in ("panoptic", "crowd", "depth", "degraded"):
                if name in row and "image" in row:
                    got, wanted = np.shape(row[name])[:2], np.shape(row["image"])[:2]
                    assert got == wanted, f"{name} has {got} pixels but its image has {wanted}"


@check("dataset")
def classes_are_declared(subject: Subject) -> None:
    dataset = subject.build()
    info = dataset.info
    if "panoptic" in info.fields:
        assert info.classes, "panoptic maps need info.classes"
        ids = info.category_ids
        assert not ids or len(ids) == len(info.classes), "category_ids and classes must have one entry a class"
        for split, rows in _splits(dataset):
            highest = max(int(row["panoptic"][..., 0].max()) for row in rows)
            assert highest <= len(info.classes), f"{split} holds class {highest} of only {len(info.classes)}"


@check("dataset")
def rows_are_the_same_every_time(subject: Subject) -> None:
    for (split, first), (_, again) in zip(_splits(subject.build()), _splits(subject.build()), strict=True):
        for a, b in zip(first, again, strict=True):
            changed = [name for name in a if not np.array_equal(a[name], b[name])]
            assert not changed, f"reading {split} again gives another {', '.join(changed)}"


@check("dataset")
def rows_can_be_read_in_any_order(subject: Subject) -> None:
    rows = subject.build().rows("train")
    if hasattr(rows, "__getitem__"):
        assert len(rows) > 0, "split train holds no row; raise DataError instead"
        last = rows[len(rows) - 1]
        first = rows[0]
        again = next(iter(rows))
        assert all(np.array_equal(first[name], again[name]) for name in first), (
            "rows[0] differs from the first row read"
        )
        assert set(last) == set(first), "the last row has other fields than the first"


@check("dataset")
def rows_are_counted(subject: Subject) -> None:
    dataset = subject.build()
    count, rows = dataset.count("train"), dataset.rows("train")
    if count is not None and hasattr(rows, "__len__"):
        skipped = len(getattr(rows, "skipped", ()))
        assert len(rows) == count - skipped, f"count says {count} rows of train, but there are {len(rows)}"


@check("dataset")
def splits_are_disjoint(subject: Subject) -> None:
    seen: dict[bytes, str] = {}
    for split, rows in _splits(subject.build()):
        for row in rows:
            values = [row[name] for name in sorted(row) if name in FORMS and name not in NAMES]
            content = b"".join(np.asarray(value).tobytes() for value in values)
            before = seen.setdefault(content, split)
            assert before == split, f"a row is in both {before} and {split}"


@check("dataset")
def unknown_splits_are_refused(subject: Subject) -> None:
    try:
        subject.build().rows("no-such-split")
    except DataError:
        return
    raise AssertionError("rows('no-such-split') must raise DataError")
