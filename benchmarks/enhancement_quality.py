"""A trained run of an enhancement task beside what needs no training, on held-out pictures at their own size.

    OMP_NUM_THREADS=1 python benchmarks/enhancement_quality.py runs/enhancement
    OMP_NUM_THREADS=1 python benchmarks/enhancement_quality.py runs/enhancement --grid FOLDER_OF_PICTURES --out grid.jpg

The table compares with the true pictures of the run's test split: as they came, with equalised histogram, CLAHE
(scikit-image, on the brightness of HSV), and the run. The grid shows the same for pictures without truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cynosure.process import tune

if TYPE_CHECKING:
    from cynosure.host import Host
    from cynosure.run.predictor import Predictor

METRICS = ("psnr", "ssim", "delta_e2000", "angular_error")
CELL, GRID_ROWS = 300, 16
CLIP = 0.01
"""Of CLAHE: scikit-image's own default."""

Method = Callable[[np.ndarray], np.ndarray]


def on_brightness(change: Callable[[np.ndarray], np.ndarray]) -> Method:
    """A change of the brightness [H, W] in [0, 1] of a picture uint8 [H, W, 3]; hue and saturation stay."""
    from skimage.color import hsv2rgb, rgb2hsv

    def method(picture: np.ndarray) -> np.ndarray:
        hsv = rgb2hsv(picture)
        hsv[..., 2] = change(hsv[..., 2])
        return np.rint(255 * hsv2rgb(hsv)).astype(np.uint8)

    return method


def methods(predictor: Predictor, task: str) -> dict[str, Method]:
    from skimage.exposure import equalize_adapthist, equalize_hist

    return {
        "as it came": lambda picture: picture,
        "histogram equalised": on_brightness(equalize_hist),
        "CLAHE": on_brightness(lambda levels: equalize_adapthist(levels, clip_limit=CLIP)),
        "the run": lambda picture: predictor.predict(picture, task=task).values["rgb"],
    }


def metrics_of(host: Host) -> list[Any]:
    return [host.components.build("metric", {"name": name}) for name in METRICS]


def measured(predictor: Predictor, task: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over pictures, by method."""
    from cynosure.core.records import Prediction

    kind = predictor.task(task)
    column, found = kind.inputs[0], {}
    for name, method in methods(predictor, task).items():
        metrics = metrics_of(predictor.host)
        for row in rows:
            answer = Prediction(kind, {"rgb": method(row[column])})
            for metric in metrics:
                metric.update([answer], [Prediction(kind, {"rgb": row["image"]})])
        found[name] = {key: float(value) for metric in metrics for key, value in metric.compute().items()}
    return found


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(next(iter(found.values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    lines += [f"| {name} | " + " | ".join(f"{values[c]:.3g}" for c in columns) + " |" for name, values in found.items()]
    return "\n".join(lines)


def grid_rows(predictor: Predictor, task: str, folder: Path) -> Iterator[list[np.ndarray]]:
    from cynosure.data.pictures import find_pictures, load_picture

    for file in islice(find_pictures([str(folder)]), GRID_ROWS):
        picture = load_picture(file).image
        yield [method(picture) for method in methods(predictor, task).values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--task", default=None)
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--grid", type=Path, help="a folder of pictures to show instead")
    parser.add_argument("--out", type=Path, default=Path("grid.jpg"))
    options = parser.parse_args()
    tune()
    from cynosure.build import Session
    from cynosure.run.grids import grid
    from cynosure.run.loading import load

    predictor = load(options.run)
    task = predictor.task(options.task).name
    if options.grid:
        headers = list(methods(predictor, task))
        grid(list(grid_rows(predictor, task, options.grid)), headers, cell=CELL).save(options.out, quality=90)
        print(options.out)
        return
    rows = Session.open(predictor.recipe, predictor.host).rows(task, "test")
    print(table(measured(predictor, task, [rows[i] for i in range(min(len(rows), options.limit))])))


if __name__ == "__main__":
    main()
