"""Which GPU CuPy finds here: `python -m bench.gpu.found` says it in a line, and ends with status 1 where there is none.

    python -m bench.gpu.found pytest hypothesis    # the line, and status 1 too where one of these is not installed

Standard library only, until CuPy is imported: this runs before anything is installed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass

NONE = "no NVIDIA GPU found"


@dataclass(frozen=True)
class Gpu:
    """The GPU that CuPy uses first. memory and l2: bytes of the device's memory and of its second-level cache."""

    name: str
    capability: str
    driver: str
    cupy: str
    cuda: str
    memory: int
    l2: int
    multiprocessors: int

    def __str__(self) -> str:
        return (
            f"{self.name} (compute capability {self.capability}, {self.memory / 2**30:.0f} GiB), driver {self.driver}, "
            f"CuPy {self.cupy}, CUDA {self.cuda}"
        )

    @property
    def file_name(self) -> str:
        """The name as a part of a file's name: "nvidia-h200"."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def find() -> Gpu | str:
    """The GPU, or in a line why there is none."""
    try:
        import cupy

        from cupynn.cli import cuda_extra

        if not cupy.cuda.runtime.getDeviceCount():
            return f"{NONE}: CuPy sees no device"
        properties = cupy.cuda.runtime.getDeviceProperties(0)
        cupy.cuda.runtime.memGetInfo()  # makes a context: a GPU that is listed may refuse to work
        version = cupy.cuda.runtime.runtimeGetVersion()
    except ModuleNotFoundError as error:
        return f"{NONE}: {error.name} is not installed in {sys.executable}"
    except Exception as error:  # a broken CUDA installation raises many types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f"{NONE}: {reason}"
    answer = (cuda_extra.nvidia_smi() or "").strip()
    return Gpu(
        name=properties["name"].decode(),
        capability=f"{properties['major']}.{properties['minor']}",
        driver=answer.partition(",")[0] or "unknown",
        cupy=cupy.__version__,
        cuda=f"{version // 1000}.{version % 1000 // 10}",
        memory=properties["totalGlobalMem"],
        l2=properties["l2CacheSize"],
        multiprocessors=properties["multiProcessorCount"],
    )


def main(packages: list[str]) -> int:
    gpu = find()
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    print(f"GPU: {gpu}" if isinstance(gpu, Gpu) else gpu)
    if missing and isinstance(gpu, Gpu):
        print(f"{', '.join(missing)}: not installed in {sys.executable}")
    return int(isinstance(gpu, str) or bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
