"""Files that the datasets read, a few pixels each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (12, 16)


def _picture(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def vocabulary(folder: Path) -> dict[str, Any]:
    """Of letters and digits, at the end of a word and before, and the two merges that spell 'red'."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["[PAD]", "[UNK]", *letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    files = {"vocabulary": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    return {**files, "vocab_size": len(tokens)}


def network(folder: Path) -> dict[str, Any]:
    """Random weights of a small timm model, as features for distances between sets of pictures."""
    from safetensors.torch import save_file

    from cynosure.compat import import_timm

    save_file(import_timm().create_model("resnet10t", pretrained=False).state_dict(), folder / "resnet.safetensors")
    return {"network": str(folder / "resnet.safetensors"), "model": "resnet10t", "subsets": 2, "subset_size": 3}


def colours_by_network(folder: Path) -> dict[str, Any]:
    """The same for a metric, on the answers of colorization."""
    return {**network(folder), "task": {"name": "colorization"}}


def pictures(folder: Path) -> dict[str, Any]:
    """Sixteen pictures in one folder, with captions."""
    lines = []
    for i in range(16):
        _picture(folder / f"{i}.png", i)
        lines.append(json.dumps({"file_name": f"{i}.png", "caption": f"picture {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return {"source": str(folder)}


def pairs(folder: Path) -> dict[str, Any]:
    """LOL's layout with a few pairs."""
    for split, start, count in (("our485", 0, 12), ("eval15", 50, 4)):
        for i in range(start, start + count):
            _picture(folder / split / "low" / f"{i}.png", i)
            _picture(folder / split / "high" / f"{i}.png", 100 + i)
    return {"root": str(folder)}


def listed_pairs(folder: Path) -> dict[str, Any]:
    """FiveK's layout with a list of test pictures, kept at another size."""
    for i in range(16):
        _picture(folder / "Inputs_jpg" / f"{i}.png", i)
        _picture(folder / "Experts_A" / f"{i}.png", 100 + i)
    (folder / "test.txt").write_text("3\n5\n")
    return {"root": str(folder), "expert": "A", "lists": {"test": "test.txt"}, "size": 8}


def photographs(folder: Path) -> dict[str, Any]:
    """Photographs degraded in all ways at once, twice."""
    kinds = ["low_light", "color_cast", "retouch"]
    return {"photographs": pictures(folder), "kinds": kinds, "copies": 2}


def looks(folder: Path) -> dict[str, Any]:
    """Photographs in three looks."""
    return {"photographs": {**pictures(folder), "size": 8}, "kinds": [], "looks": 3}


def coco(folder: Path) -> dict[str, Any]:
    """COCO's panoptic layout with two segments a picture."""
    categories = [{"id": 7, "name": "ground", "isthing": 0}, {"id": 9, "name": "box", "isthing": 1}]
    for split, count in (("train", 12), ("val", 4)):
        annotations = []
        for i in range(count):
            name = f"{i:03d}"
            _picture(folder / split / f"{name}.png", 100 * len(split) + i)
            ids = np.full((*SIZE, 3), (1, 0, 0), dtype=np.uint8)
            ids[6:, 4 : 8 + i % 4] = (0, 2, 0)  # 512
            (folder / f"panoptic_{split}").mkdir(exist_ok=True)
            Image.fromarray(ids).save(folder / f"panoptic_{split}" / f"{name}.png")
            segments = [{"id": 1, "category_id": 7, "iscrowd": 0}, {"id": 512, "category_id": 9, "iscrowd": 0}]
            annotations.append({"image_id": i, "file_name": f"{name}.png", "segments_info": segments})
        images = [{"id": i, "file_name": f"{i:03d}.png", "height": SIZE[0], "width": SIZE[1]} for i in range(count)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"panoptic_{split}.json").write_text(json.dumps(content))
    return {"root": str(folder)}
