"""COCO panoptic files with something wrong in them: one sentence that names the file, never a bare Python error."""

import json

import numpy as np
import pytest
from PIL import Image
from test_dataset_coco_panoptic import dataset, write_split

from cynosure.errors import DataError


def faulty(root, change):
    """The training rows of a set whose JSON was changed, those left out of them included."""
    write_split(root, "train", 12)
    file = root / "panoptic_train.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    data = dataset(root)
    assert data.info.classes
    return data.rows("train")


def segment(**values):
    return lambda document: document["annotations"][0]["segments_info"][0].update(values)


def without(*path):
    def change(document):
        here = document
        for part in path[:-1]:
            here = here[part]
        del here[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("annotations", 0, "segments_info", 0, "id"), "a segment of '000.png' whose id is None"),
        (without("annotations", 0, "segments_info", 0, "category_id"), "whose category_id is None"),
        (segment(id="70000"), "whose id is '70000', and must be of type int"),
        (segment(id=2**40), "with the id 1099511627776; the PNGs' colours end at 16777215"),
        (lambda document: document["annotations"][0].update(segments_info=None), "segments_info is None"),
        (without("categories", 0, "name"), "a category whose name is None"),
        (without("categories", 0, "id"), "a category whose id is None"),
        (lambda document: document["categories"].append(document["categories"][0]), "several categories with the id 7"),
        (without("images", 3, "file_name"), "an image whose file_name is None"),
    ],
)
def test_a_fault_of_the_json_is_one_sentence(change, said, tmp_path):
    with pytest.raises(DataError, match=said) as caught:
        faulty(tmp_path, change)
    assert "panoptic_train.json" in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_of_other_ids_is_left_out_and_named(dtype, tmp_path):
    """All void, it would teach that there is nothing to see."""
    write_split(tmp_path, "train", 12)
    data = dataset(tmp_path, holdout=1)
    Image.fromarray(np.full((6, 8), 44, dtype)).save(tmp_path / "panoptic_train" / "004.png")
    rows = {split: data.rows(split) for split in ("train", "validation", "test")}
    (skipped,) = [sentence for each in rows.values() for sentence in each.skipped]
    assert "004.png' holds none of its segments' ids" in skipped
    assert sum(map(len, rows.values())) == 11
