"""Opening pictures through `datasets`: folders, parquet files, webdataset shards, the Hugging Face hub."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any, Literal

from cynosure.data.pictures import SUFFIXES
from cynosure.errors import CynosureError, DataError
from cynosure_plugins.datasets.splits import NAMES

Kind = Literal["folder", "parquet", "webdataset", "hub"]
_OF_ENDING: dict[str, Kind] = {**dict.fromkeys(SUFFIXES, "folder"), ".parquet": "parquet", ".tar": "webdataset"}


def kind_of(source: str) -> Kind:
    """What `source` is, from what lies there; a name that lies nowhere here is a dataset on the hub.

    Raises DataError when it is neither a path that exists nor a possible name on the hub.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        for file in path.rglob("*"):
            if kind := _OF_ENDING.get(file.suffix.lower()):
                return kind
        raise DataError(f"the folder '{source}' holds no picture, *.parquet or *.tar file")
    endings = {p.suffix.lower() for p in (Path(name) for name in glob.glob(str(path), recursive=True))}
    if len(endings) == 1 and (kind := _OF_ENDING.get(endings.pop())) in ("parquet", "webdataset"):
        return kind
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) or source.startswith(".") or path.exists():
        raise DataError(
            f"'{source}' is no folder of pictures, no *.parquet or *.tar files and no dataset on the Hugging Face hub; "
            "check `source`"
        )
    return "hub"


def open_source(source: str, kind: Kind, subset: str | None, streaming: bool, split: str | None = None) -> Any:
    """The source by split, or one split or slice of it such as 'train[:90%]', as `datasets` loads it.

    Raises DataError with the library's reason in one sentence.
    """
    import datasets

    path, arguments = _arguments(source, kind)
    try:
        return datasets.load_dataset(path, name=subset, split=split, streaming=streaming, **arguments)
    except CynosureError:
        raise
    except Exception as error:  # The library raises what its dozens of builders raise.
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        if kind == "hub":
            raise DataError(
                f"'{source}' is no folder or file here, and the Hugging Face hub did not give it: {lines[0]}; "
                "set `source` to where the data are"
            ) from error
        what = f"the {split} split of '{source}'" if split else f"'{source}'"
        raise DataError(f"{what} cannot be loaded as {kind}: {lines[0]}") from error


def _arguments(source: str, kind: Kind) -> tuple[str, dict[str, Any]]:
    if kind == "hub":
        return source, {}
    path = Path(source).expanduser().absolute()
    if kind == "folder":
        return "imagefolder", _folder_arguments(path)
    if not path.is_dir() and not glob.glob(str(path), recursive=True):
        raise DataError(f"there is nothing at '{source}'; check `source`")
    return kind, {"data_dir": str(path)} if path.is_dir() else {"data_files": str(path)}


def _folder_arguments(folder: Path) -> dict[str, Any]:
    """Only whole folders are splits: the library would also take a picture named 'my_test.jpg' for the test split and
    drop all others, and take the names of split folders for labels."""
    if not folder.is_dir():
        raise DataError(f"the folder '{folder}' does not exist; check `source`")
    splits = [name for names in NAMES.values() for name in names if (folder / name).is_dir()]
    root = glob.escape(str(folder))
    if not splits:
        return {"data_files": {"train": f"{root}/**"}}
    classes = any(child.is_dir() for name in splits for child in (folder / name).iterdir())
    return {
        "data_files": {name: f"{root}/{name}/**" for name in splits},
        "drop_labels": None if classes else True,
    }
