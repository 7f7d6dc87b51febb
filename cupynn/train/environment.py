"""What a run ran on: versions, device, compiler."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import sys

import cupynn
from cupynn import device
from cupynn.kernels import runtime

PACKAGES = ("numpy", "safetensors", "cupy-cuda12x", "cupy-cuda13x", "matplotlib", "mlxtend", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of Python, cupynn and the packages it can use, where they are installed."""
    found = {"python": platform.python_version(), "cupynn": cupynn.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """The default device, what it is, and how kernels run on it."""
    here = device.default_device()
    mode = runtime.mode()
    found = {
        "device": here,
        "processor": processor() if here == "cpu" else gpu_name(int(here.partition(":")[2])),
        "platform": platform.platform(),
        "kernels": mode,
    }
    if here == "cpu":
        found["threads"] = threads()
        if mode != "reference":
            found["compiler"] = runtime.compiler_version() if runtime.find_compiler() else "none: references run"
    return found


def processor() -> str:
    """The name of the CPU."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpu_name(number: int) -> str:
    """Name and compute capability of a GPU, e.g. "NVIDIA H200, compute capability 9.0"."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(number)
    return f"{properties['name'].decode()}, compute capability {properties['major']}.{properties['minor']}"


def threads() -> str:
    """How many threads kernels use on the CPU, and why."""
    if named := os.environ.get("OMP_NUM_THREADS"):
        return f"{named} (OMP_NUM_THREADS)"
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{usable} (all cores)"
