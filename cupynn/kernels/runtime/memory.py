"""Memory that arrays give back stays in the process, so that the next training step's arrays find it mapped."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep up to two gigabytes of freed memory.

    A training step makes and drops the same arrays again and again. By default the largest go back to the system each
    time, and every page of the next is mapped and cleared anew: a quarter of a SmallNet step at batch 128, and of a
    SeqResNet-B step, whose arrays are above 32 MB, from where glibc gives every array a mapping of its own unless it is
    told to make none. Other C libraries are left as they are, and so is a malloc that the user has tuned.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc here
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
