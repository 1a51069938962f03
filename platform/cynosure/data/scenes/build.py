"""Scenes as a `datasets` dataset, rendered once on all cores and kept on disk."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cynosure.data.cache import cache_folder, writing_to
from cynosure.data.scenes.render import image_size
from cynosure.data.scenes.worker import write_part
from cynosure.errors import DataError

if TYPE_CHECKING:
    import datasets

VERSION = 2
"""Raise it with every change to what `render_scenes` returns: it is part of the name of a cached dataset."""
_ROWS_WORTH_A_PROCESS = 256
_MANIFEST = "manifest.json"

Progress = Callable[[int, int], None]


def _cores() -> int:
    # Affinity, where the system has it, knows about containers and batch systems.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shares(start: int, count: int, parts: int) -> list[tuple[int, int]]:
    """(first index, number of scenes) of every part."""
    edges = [start + count * part // parts for part in range(parts + 1)]
    return [(first, last - first) for first, last in itertools.pairwise(edges)]


def _run_workers(
    seed: int, shares: list[tuple[int, int]], size: tuple[int, int], paths: list[Path], report: Callable[[int], None]
) -> None:
    """One fresh interpreter a share: safe wherever fork is not, and in scripts and notebooks without a main guard."""
    module_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment = {**os.environ, "PYTHONPATH": module_path, "OMP_NUM_THREADS": "1"}
    reader, writer = os.pipe()
    workers: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as errors:
        try:
            for (first, count), path in zip(shares, paths, strict=True):
                numbers = [str(number) for number in (seed, first, count, *size)]
                command = [sys.executable, "-m", "cynosure.data.scenes.worker", *numbers, str(path)]
                workers.append(subprocess.Popen(command, stdout=writer, stderr=errors, env=environment))
            os.close(writer)
            with os.fdopen(reader) as lines:
                for line in lines:
                    report(int(line))
            failed = [worker.wait() for worker in workers]
            if any(failed):
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines()
                reason = said[-1] if said else f"exit code {next(filter(None, failed))}"
                raise DataError(
                    f"rendering scenes failed ({reason}): free memory, or set CYNOSURE_CACHE to a folder with room"
                )
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def _write(
    folder: Path, seed: int, start: int, count: int, size: tuple[int, int], processes: int, progress: Progress | None
) -> None:
    shares = _shares(start, count, processes)
    paths = [folder / f"part-{number:03d}.arrow" for number in range(processes)]
    done = 0

    def report(scenes: int) -> None:
        nonlocal done
        done += scenes
        if progress:
            progress(done, count)

    report(0)
    if processes == 1:
        write_part(seed, start, count, size, paths[0], report)
    else:
        _run_workers(seed, shares, size, paths, report)
    manifest = {"rows": count, "bytes": {path.name: path.stat().st_size for path in paths}}
    (folder / _MANIFEST).write_text(json.dumps(manifest))


def _open(folder: Path, count: int) -> "datasets.Dataset | None":
    """The dataset in `folder`, or None when it is absent, incomplete or unreadable."""
    import datasets

    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for name, size in manifest["bytes"].items():
            if (folder / name).stat().st_size != size:
                return None
        parts = [datasets.Dataset.from_file(str(folder / name)) for name in manifest["bytes"]]
        dataset = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, IndexError):
        return None
    return dataset if len(dataset) == count else None


def build_scenes(
    seed: int,
    count: int,
    size: int | Sequence[int],
    start: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> "datasets.Dataset":
    """Scenes start .. start + count - 1 of `seed` at `size` pixels, as a memory-mapped dataset.

    Columns: `index`, the bytes of `image`, `panoptic`, `depth` and `degraded` (see `rows.ARRAYS`), `caption`, and
    `objects` as JSON; `SceneRows` and `decode_row` turn rows into arrays. A 64 x 64 scene takes 57 kB.

    Rendered on first use by `processes` processes (default: one a core), reporting `progress(done, count)`, then kept
    in `cache_dir` (default: `$CYNOSURE_CACHE/scenes`, or `~/.cache/cynosure/scenes`). A dataset appears under its name
    only when it is whole; one that is damaged is rendered again.

    Raises:
        DataError: count is below 1, start is negative, a side is shorter than 16 pixels, rendering failed, or the cache
            cannot be written.
    """
    shape = image_size(size)
    if count < 1 or start < 0:
        raise DataError(f"cannot build {count} scenes from index {start}: ask for at least one, from 0 or later")
    root = Path(cache_dir) if cache_dir is not None else cache_folder() / "scenes"
    folder = root / f"v{VERSION}-seed{seed}-{start}+{count}-{shape[0]}x{shape[1]}"
    found = _open(folder, count)
    if found is not None:
        return found

    processes = max(1, min(processes or _cores(), count // _ROWS_WORTH_A_PROCESS))
    with writing_to(root):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=root) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            _write(made, seed, start, count, shape, processes, progress)
            if _open(folder, count) is None:
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    built = _open(folder, count)
    if built is None:
        raise DataError(f"the scenes just written to {folder} cannot be read: check the disk, then try again")
    return built
