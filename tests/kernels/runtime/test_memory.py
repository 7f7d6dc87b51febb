"""After the first kernel, arrays that are dropped and made again cost no page faults."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from cupynn.kernels import pool

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        arrays = [np.ones(3 << 18, np.float32) for _ in range(8)]  # 3 MB each
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pool.max_forward(np.zeros((1, 1, 4, 4), np.float32), 2, 2, 0)
faults(2)
print(faults(10))
"""
PAGES = 10 * 8 * (3 << 20) // 4096  # faults if every array were mapped anew


def faults(**environment: str) -> int:
    run = [sys.executable, "-c", PROGRAM]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "CUPYNN_KERNELS"))}
    return int(subprocess.run(run, env=clean | environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_freed_memory_is_used_again():
    assert faults() < PAGES / 20
    # what the user has tuned stays: the smallest thresholds map every array anew
    assert faults(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536") > PAGES / 2
