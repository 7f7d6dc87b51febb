"""Compile and launch a `.cu` file for the GPU (NVRTC, through CuPy) or for the CPU (the system's C++ compiler).

Read in this order: `dispatch.py` (what the kernels call), `cpu.py` and `launcher.h` (a launch on the CPU),
`cuda_on_cpu.h` (how CUDA maps to a CPU), `block_on_cpu.h` and `fibers.h` (barriers and warps), `gpu.py`, `build.py`
(compiler and cache), `blas.py` and `cublas.py` (matrix products), `checked.py` and `checker.cpp` (the kernels' race
and bounds checker), `recorder.h` (what one block does, for `cupynn.trace`), `nvrtc.py` and `occupancy.py` (what a
kernel takes of a GPU, found without one).
"""

from .blas import matmul, multiply, product
from .build import cache_folder, compiler_version, find_compiler
from .dispatch import (
    as_on_gpu,
    capability,
    compiled_for,
    ctype,
    device_number,
    is_gpu,
    launch,
    scalar,
    shared_capacity,
    threads,
    vector_bytes,
)
from .errors import KernelCheckError, KernelCompileError
from .modes import mode, set_mode

__all__ = [
    "KernelCheckError",
    "KernelCompileError",
    "as_on_gpu",
    "cache_folder",
    "capability",
    "compiled_for",
    "compiler_version",
    "ctype",
    "device_number",
    "find_compiler",
    "is_gpu",
    "launch",
    "matmul",
    "mode",
    "multiply",
    "product",
    "scalar",
    "set_mode",
    "shared_capacity",
    "threads",
    "vector_bytes",
]
