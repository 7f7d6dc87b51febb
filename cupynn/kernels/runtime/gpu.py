"""Kernels on the GPU: CuPy compiles a `.cu` with NVRTC and launches it."""

from __future__ import annotations

import hashlib
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import build, cpu
from .errors import KernelCompileError

OPTIONS = ("-std=c++17", f"-I{build.KERNELS}")
PLAIN_SHARED = 48 * 1024  # more dynamic shared memory than this must be asked for, per kernel

_functions: dict[tuple[pathlib.Path, str, int], Any] = {}  # the last key: a device's number; a module lives on one
_building = threading.Lock()


def launch(
    name: str | pathlib.Path,
    expression: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: Sequence[Any],
    shared_bytes: int,
) -> None:
    """As `dispatch.launch`, on the device of the first array and its current stream."""
    import cupy

    if 0 in grid:
        return  # CuPy would run one block
    here = next(value.device.id for value in args if isinstance(value, cupy.ndarray))
    path = cpu.source_path(name)
    with cupy.cuda.Device(here):
        function = _functions.get((path, expression, here)) or _compile(path, expression, here)
        if shared_bytes > PLAIN_SHARED and function.max_dynamic_shared_size_bytes < shared_bytes:
            function.max_dynamic_shared_size_bytes = shared_bytes
        values = [_argument(path, expression, i, value, cupy, here) for i, value in enumerate(args)]
        function(grid, block, tuple(values), shared_mem=shared_bytes)


def _compile(path: pathlib.Path, expression: str, here: int) -> Any:
    import cupy

    with _building:
        # CuPy keeps what it compiled by source and options, not by the headers: their hash makes them part of it.
        headers = hashlib.sha256((build.header_text(build.KERNELS) + build.header_text(path.parent)).encode())
        module = cupy.RawModule(
            code=f"{path.read_text()}\n// {headers.hexdigest()}\n",
            options=(*OPTIONS, f"-I{path.parent}"),
            name_expressions=(expression,),
        )
        try:
            function = module.get_function(expression)
        except cupy.cuda.compiler.CompileException as error:
            raise KernelCompileError(f"{path.stem}: NVRTC refused {expression}\n{error}") from error
        _functions[path, expression, here] = function
        return function


def _argument(path: pathlib.Path, expression: str, position: int, value: Any, cupy: Any, here: int) -> Any:
    """A value as CuPy passes it to a kernel; `cpu.TYPES` has the same types for the CPU."""
    if isinstance(value, cupy.ndarray) and value.flags.c_contiguous and value.device.id == here:
        return value
    if value is None:
        return np.uint64(0)  # a null pointer
    if type(value) is int and -(2**31) <= value < 2**31:
        return np.int32(value)
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, np.generic):
        return value
    where = f"{path.name}: {expression}: argument {position}"
    if isinstance(value, cupy.ndarray):
        if value.device.id != here:
            raise ValueError(f"{where} lies on cuda:{value.device.id}; the kernel runs on cuda:{here}")
        raise ValueError(f"{where} wants a C-contiguous array; got strides {value.strides}, shape {value.shape}")
    if isinstance(value, np.ndarray):
        raise ValueError(f"{where} is a NumPy array of shape {value.shape}, the others are on the GPU")
    if type(value) is int:
        raise OverflowError(f"{where} is an int, and {value} does not fit")
    raise TypeError(
        f"{where} is {value!r}; a kernel takes arrays, None, int and NumPy scalars: "
        "runtime.scalar(dtype, value) makes one"
    )
