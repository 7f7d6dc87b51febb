"""Which extra of cupynn fits this computer's NVIDIA GPU: prints `cuda12`, `cuda13`, or nothing.

The Makefile runs this file by its path before anything is installed: standard library only, nothing of cupynn.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Collection

QUERY = ("nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader")


def choose(answer: str | None, installed: Collection[str] = ()) -> str | None:
    """ "cuda13", "cuda12" or None from nvidia-smi's answer, one line "driver, compute capability" per GPU.

    CUDA 13 needs driver 580 and compute capability 7.5 on every GPU, CUDA 12 driver 525, which newer drivers include.
    CuPy's wheels for the two cannot be installed side by side: a wheel among the `installed` ones decides, where the
    driver allows. None where there is no GPU, or one that neither fits; then the CPU computes.
    """
    drivers, capabilities = [], []
    for line in (answer or "").splitlines():
        try:
            driver, capability = line.split(",")
            drivers.append(int(driver.split(".")[0]))
            major, minor = capability.split(".")
            capabilities.append((int(major), int(minor)))
        except ValueError:  # "No devices were found", "[N/A]", a message of an old driver
            return None
    if not drivers:
        return None
    fits = []
    if min(drivers) >= 580 and min(capabilities) >= (7, 5):
        fits.append("cuda13")
    if min(drivers) >= 525:
        fits.append("cuda12")
    kept = [extra for extra in fits if f"cupy-{extra}x" in installed]
    return next(iter(kept + fits), None)


def nvidia_smi() -> str | None:
    """What nvidia-smi says of the GPUs; None where it is missing or fails."""
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


def installed_wheels() -> list[str]:
    """CuPy's wheels in this Python."""
    found = []
    for name in ("cupy-cuda12x", "cupy-cuda13x"):
        try:
            importlib.metadata.version(name)
            found.append(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    print(choose(nvidia_smi(), installed_wheels()) or "")
