"""Settings of the process that must be made before torch starts its threads."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def tune() -> None:
    """Make CPU training fast: call first thing in a program, before torch is imported.

    Idle OpenMP threads spin for some microseconds and then sleep: spinning on is 2 to 4 times slower on a machine that
    does anything else, sleeping at once loses the second core. And glibc keeps large freed blocks instead of giving
    every activation back to the kernel. Values the user has set stay.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.platform == "linux" and "torch" not in sys.modules:
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        except (OSError, AttributeError):
            pass  # another C library: slower, not wrong
