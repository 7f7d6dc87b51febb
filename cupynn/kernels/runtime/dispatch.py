"""What the kernels' Python faces call: launch a kernel where its arrays are, and small questions about arrays."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cupynn.device import Array, compute_dtype, xp_of

from . import build, cpu, modes

_C_NAMES = {np.dtype(name).num: c for name, c in (("float32", "float"), ("float64", "double"))}
_NARROW = {np.dtype(np.float16).num: "Half"}  # BFloat16 joins when the first array of bfloat16 comes by


_as_gpu = False


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """Inside a `with` block faces launch on NumPy arrays as on a GPU's: its strips, its threads per block, its grid."""
    global _as_gpu
    _as_gpu = True
    try:
        yield
    finally:
        _as_gpu = False


def is_gpu(array: Array) -> bool:
    """True for a CuPy array, and for a NumPy array inside `as_on_gpu`."""
    return xp_of(array) is not np or (_as_gpu and isinstance(array, np.ndarray))


def device_number(array: Array) -> int | None:
    """The number of the GPU that an array is on; None for the CPU."""
    return array.device.id if xp_of(array) is not np else None


def compiled_for(*arrays: Array | None, narrow: bool = False) -> bool:
    """True where compiled kernels take these arrays; False sends a face to its reference.

    False in mode "reference", for a dtype other than float32 and float64 (`narrow`: and float16 and bfloat16), for
    arrays on several devices, and on the CPU without a C++ compiler. None stands for an absent array.
    """
    if (modes._mode or modes.mode()) == "reference":
        return False
    cupy = sys.modules.get("cupy")
    device = None
    for array in arrays:
        if array is None:
            continue
        if array.dtype.num not in _C_NAMES and not (narrow and _narrow_name(array.dtype)):
            return False
        here = array.device.id if cupy is not None and isinstance(array, cupy.ndarray) else -1
        if device is None:
            device = here
        elif here != device:
            return False
    if device is None or device == -1 or modes._mode == "checked":
        return modes._compiler_found or modes.compiler_found()
    return True


def ctype(array: Any) -> str:
    """The C++ name of an array's (or a dtype's) scalar type: `"float"`, `"double"`, `"Half"` or `"BFloat16"`."""
    dtype = array.dtype if isinstance(array, np.ndarray) or is_gpu(array) else np.dtype(array)
    name = _C_NAMES.get(dtype.num) or _narrow_name(dtype)
    if name is None:
        raise TypeError(f"kernels take float16, bfloat16, float32 and float64; got {dtype}")
    return name


def _narrow_name(dtype: np.dtype) -> str | None:
    name = _NARROW.get(dtype.num)
    if name is None and dtype.name == "bfloat16":
        name = _NARROW[dtype.num] = "BFloat16"
    return name


def capability(like: Array) -> int:
    """Ten times the compute capability of the GPU where an array is, as in `sm_80`; 0 on the CPU, 80 in `as_on_gpu`."""
    if not is_gpu(like):
        return 0
    return 80 if device_number(like) is None else int(like.device.compute_capability)


def scalar(dtype: Any, value: float) -> np.generic:
    """`value` as a scalar argument of type T, in which arrays of this dtype are computed with."""
    return compute_dtype(np.dtype(dtype)).type(value)


def threads(like: Array, gpu: int = 256) -> int:
    """Threads per block: `gpu` of them for a CuPy array, 1 on the CPU, a few in checked mode so that races show."""
    if (modes._mode or modes.mode()) == "checked" and not _as_gpu:
        return min(gpu, 32)
    return gpu if is_gpu(like) else 1


def shared_capacity(like: Array) -> int:
    """Bytes of dynamic shared memory that a block can have: what the smallest GPU of compute capability 7.0 or more
    gives, or what a CPU's second-level cache holds."""
    return (64 << 10) if is_gpu(like) else cpu.SHARED_CAPACITY


def vector_bytes(like: Array) -> int:
    """Bytes that one load moves: on the CPU a vector register (64 with AVX-512, 32 with AVX2, else 16), on a GPU 16."""
    return 16 if is_gpu(like) else build.target()[1]


def launch(
    name: str | pathlib.Path,
    kernel: str,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Sequence[Any],
    shared_bytes: int = 0,
    outputs: Sequence[Array] = (),
    touches: Sequence[Array] = (),
) -> None:
    """Run a kernel over a grid of blocks, on the device where its arrays are.

    `name` is NAME of `cupynn/kernels/NAME.cu` (or a Path); `kernel` an instantiation such as `"forward<float, 3>"`.
    `grid` and `block` are one to three numbers. `args`: a C-contiguous array gives its pointer, None a null pointer, a
    Python int an `int`, a NumPy scalar its own type. In checked mode every element of `outputs` must be written, and
    arrays in `touches` are read and written; other arrays that the kernel writes may be written in part.

    Raises KernelCompileError, TypeError or ValueError for an argument that does not fit the kernel's signature,
    KernelCheckError in checked mode.
    """
    grid = (grid, 1, 1) if isinstance(grid, int) else (*grid, 1, 1)[:3]
    block = (block, 1, 1) if isinstance(block, int) else (*block, 1, 1)[:3]
    if (modes._mode or modes.mode()) == "checked":
        from . import checked

        checked.launch(name, kernel, grid, block, args, shared_bytes, outputs, touches)
    elif (cupy := sys.modules.get("cupy")) and any(isinstance(argument, cupy.ndarray) for argument in args):
        from . import gpu

        gpu.launch(name, kernel, grid, block, args, shared_bytes)
    else:
        cpu.kernel(name, kernel, block == (1, 1, 1))(grid, block, args, shared_bytes)
