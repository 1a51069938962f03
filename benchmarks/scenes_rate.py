"""How fast scenes are rendered on one core, and read back from a dataset on disk.

OMP_NUM_THREADS=1 python benchmarks/scenes_rate.py
"""

import tempfile
import time
from collections.abc import Callable

import numpy as np

from cynosure.data.scenes import SceneRows, build_scenes, render_scenes

COUNTS = {64: 512, 128: 128}
REPEATS = 3


def best(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of a few repetitions: other programs only ever slow one down."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    render_scenes(0, np.arange(16), 64)
    for size, count in COUNTS.items():
        indices = np.arange(count)
        seconds = best(lambda: render_scenes(0, indices, size))  # noqa: B023
        print(f"{size} px: {count / seconds:.0f} images/s a core, with labels, captions and low light")
    with tempfile.TemporaryDirectory() as folder:
        dataset = build_scenes(0, 256, 64, cache_dir=folder, processes=1)
        for fields in (("image", "panoptic", "depth"), ("image", "panoptic", "depth", "degraded", "caption")):
            rows = SceneRows(dataset, 64, fields)
            order = np.random.default_rng(0).permutation(len(rows)).tolist()
            seconds = best(lambda: [rows[row] for row in order])  # noqa: B023
            print(f"64 px: {seconds / len(rows) * 1e6:.1f} µs to read a row of {', '.join(fields)}")


if __name__ == "__main__":
    main()
