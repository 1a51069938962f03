"""Renders one part of a scenes dataset into an Arrow file; run as a process of its own by `build`.

    python -m cynosure.data.scenes.worker SEED START COUNT HEIGHT WIDTH FILE

Prints the number of scenes written after every batch. Needs numpy and pyarrow alone: no forked state, no torch.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from cynosure.data.scenes.render import render_scenes
from cynosure.data.scenes.rows import ARRAYS

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        *((name, pa.binary()) for name in ARRAYS),
        ("caption", pa.string()),
        ("objects", pa.string()),
    ]
)
_BATCH_PIXELS = 64 * 64 * 64


def write_part(
    seed: int, start: int, count: int, size: tuple[int, int], path: Path, report: Callable[[int], object]
) -> None:
    """Writes scenes start .. start + count - 1 to `path`; `report` hears the size of every batch written."""
    step = max(1, _BATCH_PIXELS // (size[0] * size[1]))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for first in range(start, start + count, step):
            indices = np.arange(first, min(first + step, start + count))
            scenes = render_scenes(seed, indices, size)
            columns: dict[str, object] = {"index": indices}
            for name, (kind, _) in ARRAYS.items():
                columns[name] = [array.tobytes() for array in scenes[name].astype(kind, copy=False)]
            columns["caption"] = scenes["caption"]
            columns["objects"] = [json.dumps(objects) for objects in scenes["objects"]]
            writer.write_batch(pa.record_batch([pa.array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA))
            report(len(indices))


if __name__ == "__main__":
    *numbers, file = sys.argv[1:]
    seed, start, count, height, width = map(int, numbers)
    # Workers share one pipe: a line in a single write cannot be torn by another worker's.
    write_part(seed, start, count, (height, width), Path(file), lambda done: os.write(1, f"{done}\n".encode()))
