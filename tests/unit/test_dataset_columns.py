"""What dataset `images` makes of columns: captions as they are stored, columns within columns, and who is held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from cynosure.errors import DataError
from cynosure_plugins.datasets.images import Images
from cynosure_plugins.datasets.splits import hold_out


def images(source: Path, **options: Any) -> Images:
    return Images(Images.Config(source=str(source), **options))


def captioned(folder: Path, captions: list[Any], feature: Any) -> Path:
    """A parquet file of pictures in one colour each, with a column `said`."""
    picture = folder / "picture.png"
    Image.new("RGB", (4, 4)).save(picture)
    features = datasets.Features({"image": datasets.Image(), "said": feature})
    rows = {"image": [str(picture)] * len(captions), "said": captions}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "some.parquet"))
    return folder / "some.parquet"


WHOLE = dict.fromkeys(("train", "validation", "test"), "train")
"""Nothing is held out."""
TEXT, RAW = datasets.Value("string"), datasets.Value("binary")


@pytest.mark.parametrize(
    ("captions", "feature", "column", "wanted"),
    [
        (["é", "b", "c"], TEXT, "said", ["é", "b", "c"]),
        (["é".encode(), b"b", None], RAW, "said", ["é", "b", ""]),
        ([["a", "b"], [], ["c"]], datasets.List(TEXT), "said", ["a", "", "c"]),
        ([{"raw": "a"}, {"raw": None}, {"raw": "c"}], {"raw": TEXT}, "said.raw", ["a", "", "c"]),
        ([[{"raw": "a"}, {"raw": "b"}], [], [{"raw": "c"}]], datasets.List({"raw": TEXT}), "said.raw", ["a", "", "c"]),
    ],
    ids=["text", "bytes", "list", "within", "within a list"],
)
def test_captions_are_read_as_they_are_stored(
    captions: list[Any], feature: Any, column: str, wanted: list[str], tmp_path: Path
) -> None:
    data = images(captioned(tmp_path, captions, feature), columns={"caption": column}, splits=WHOLE)
    assert [row["caption"] for row in data.rows("train")] == wanted


def test_what_is_no_caption_is_said(tmp_path: Path) -> None:
    """An empty caption in its place would train a model that does not listen."""
    within = captioned(tmp_path, [{"raw": "a"}] * 3, {"raw": TEXT})
    with pytest.raises(DataError, match=r"no column 'said.rwa' for caption, did you mean 'said.raw'"):
        images(within, columns={"caption": "said.rwa"}).rows("train")
    with pytest.raises(DataError, match=r"no readable row.*must be text, not \{'raw': 'a'\}"):
        images(within, columns={"caption": "said"}, splits=WHOLE).rows("train")
    bad = captioned(tmp_path, [b"\xff"] * 3, RAW)
    with pytest.raises(DataError, match="no UTF-8 text"):
        images(bad, columns={"caption": "said"}, splits=WHOLE).rows("train")


def test_one_picture_more_or_less_moves_one_of_the_training_at_most() -> None:
    """Else a test after data have been repaired or have grown would be on pictures of the training."""
    names = [f"{i}.png" for i in range(60)]
    before = hold_out(names, ["validation", "test"], 0.1, 0)
    assert [len(before[split]) for split in ("validation", "test", "train")] == [6, 6, 48]
    trained = {names[i] for i in before["train"]}
    for more in ("aaa.png", "zzz.png", "5a.png"):
        grown = sorted([*names, more])
        after = hold_out(grown, ["validation", "test"], 0.1, 0)
        assert len({grown[i] for i in after["test"]} & trained) <= 1
    for i in range(60):
        fewer = names[:i] + names[i + 1 :]
        after = hold_out(fewer, ["validation", "test"], 0.1, 0)
        assert len({fewer[i] for split in ("validation", "test") for i in after[split]} & trained) <= 1


def test_growing_data_hold_out_few_rows_of_the_training() -> None:
    """As many as the held-out parts grow by; drawn anew, it would be nine in ten of them."""
    names = [f"{i}.png" for i in range(300)]
    few, many = (hold_out(names[:count], ["validation", "test"], 0.1, 0) for count in (200, 300))
    trained = set(few["train"].tolist())
    assert sum(len(trained & set(many[split].tolist())) for split in ("validation", "test")) <= 20


def test_pictures_are_held_out_wherever_their_folder_lies(tmp_path: Path) -> None:
    for root in ("here", "there/with/more"):
        (tmp_path / root / "photos").mkdir(parents=True)
        for i in range(30):
            Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / root / "photos" / f"{i}.png")
    found = [
        [int(row["image"][0, 0, 0]) for row in images(tmp_path / root).rows("test")] for root in ("here", "there/with")
    ]
    assert found[0] == found[1]
