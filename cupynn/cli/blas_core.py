"""Whether NumPy's OpenBLAS runs the kernels that are fastest on this processor.

It picks them when it is loaded: by the processor, whose name it may not know, or by OPENBLAS_CORETYPE. So another
choice can only be tried in another process.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cupynn.kernels.runtime import blas

VARIABLE = "OPENBLAS_CORETYPE"
SIZE = 512
FASTER = 1.15  # how many times as fast a remedy must be
# What a processor must have for OpenBLAS's kernels, the fastest first, and the names of others that are as fast.
CORES = {
    "SkylakeX": ({"avx512f", "avx512dq", "avx512bw", "avx512vl"}, {"Cooperlake", "Sapphirerapids"}),
    "Haswell": ({"avx2", "fma"}, {"Zen", "SkylakeX", "Cooperlake", "Sapphirerapids"}),
}


def remedy() -> str | None:
    """What to do about OpenBLAS's choice, with the speeds that were measured; None where nothing helps."""
    tries = list(candidates(blas.core(), flags(), os.environ))
    now = measured(os.environ) if tries else None
    for advice, environment in tries:
        then = measured(environment)
        if now and then and then["right"] and then["speed"] > FASTER * now["speed"]:
            return (
                f"OpenBLAS runs its kernels for {now['core']}, {now['speed'] / 1e9:.0f} GFLOP/s a thread in float32; "
                f"those for {then['core']} give {then['speed'] / 1e9:.0f}, and right results: {advice}"
            )
    return None


def candidates(
    core: str | None, flags: set[str], environment: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """(advice, environment) of what may be faster, in the order in which to try them."""
    if core is None:
        return
    if environment.get(VARIABLE):
        yield f"unset {VARIABLE}", {name: value for name, value in environment.items() if name != VARIABLE}
    for better, (needs, as_fast) in CORES.items():
        if needs <= flags:
            if core.lower() not in {name.lower() for name in (better, *as_fast)}:
                yield f"set {VARIABLE}={better}", {**environment, VARIABLE: better}
            return


def flags() -> set[str]:
    """What this processor can do, in Linux's words; empty on other systems."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())


def measured(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `measure` returns in a new process with one thread and these variables; None where that fails."""
    program = "import json; from cupynn.cli import blas_core; print(json.dumps(blas_core.measure()))"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(answer.stdout) if answer.returncode == 0 else None


def measure() -> dict[str, Any]:
    """{"core": name, "speed": operations per second of the fastest of several float32 products, "right": bool}.

    Right: no element is further from the product in float64 than n rounding errors allow, n eps |a| |b|.
    """
    a, b = np.random.default_rng(0).standard_normal((2, SIZE, SIZE), np.float32)
    seconds = []
    for _ in range(12):
        start = time.thread_time()  # of this thread alone: other programs' turns do not count
        product = a @ b
        seconds.append(time.thread_time() - start)
    wide = a.astype(np.float64), b.astype(np.float64)
    allowed = SIZE * np.finfo(np.float32).eps * (np.abs(wide[0]) @ np.abs(wide[1]))
    right = bool((np.abs(product - wide[0] @ wide[1]) <= allowed).all())
    return {"core": blas.core(), "speed": 2 * SIZE**3 / min(seconds), "right": right}
