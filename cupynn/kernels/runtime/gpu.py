"""Kernels on the GPU: CuPy compiles a `.cu` with NVRTC and launches it."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import build, cpu
from .errors import KernelCompileError

OPTIONS = ("-std=c++17", f"-I{build.KERNELS}")
PLAIN_SHARED = 48 * 1024  # more dynamic shared memory than this must be asked for, per kernel

_sources: dict[Any, str] = {}
_functions: dict[tuple[Any, str, int], Any] = {}  # the last key is the device's number: a module lives on one device
_building = threading.Lock()


def launch(
    name: str | pathlib.Path,
    expression: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: Sequence[Any],
    shared_bytes: int,
) -> None:
    """As `dispatch.launch`, on the current CUDA device and stream."""
    import cupy

    here = cupy.cuda.Device().id
    function = _functions.get((name, expression, here)) or _compile(name, expression, here)
    if shared_bytes > PLAIN_SHARED and function.max_dynamic_shared_size_bytes < shared_bytes:
        function.max_dynamic_shared_size_bytes = shared_bytes
    values = [_argument(f"{name}.cu: {expression}", i, value, cupy, here) for i, value in enumerate(args)]
    function(grid, block, tuple(values), shared_mem=shared_bytes)


def _compile(name: str | pathlib.Path, expression: str, here: int) -> Any:
    import cupy

    with _building:
        source = _sources.setdefault(name, cpu.source_path(name).read_text())
        module = cupy.RawModule(code=source, options=OPTIONS, name_expressions=(expression,))
        try:
            function = module.get_function(expression)
        except cupy.cuda.compiler.CompileException as error:
            raise KernelCompileError(f"{name}.cu: NVRTC refused {expression}\n{error}") from error
        _functions[name, expression, here] = function
        return function


def _argument(where: str, position: int, value: Any, cupy: Any, here: int) -> Any:
    """A value as CuPy passes it to a kernel; see `cpu.TYPES` for the same types on the CPU."""
    if isinstance(value, cupy.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError(
                f"{where}: argument {position} wants a C-contiguous array; got strides {value.strides}, "
                f"shape {value.shape}"
            )
        if value.device.id != here:
            raise ValueError(
                f"{where}: argument {position} lies on cuda:{value.device.id}; the kernel runs on cuda:{here}"
            )
        return value
    if value is None:
        return np.uint64(0)  # a null pointer
    if type(value) is int:
        return np.int32(value)
    if isinstance(value, (bool, np.generic)):
        return value
    if isinstance(value, np.ndarray):
        raise ValueError(
            f"{where}: argument {position} is a NumPy array of shape {value.shape}, the others are on the GPU"
        )
    raise TypeError(
        f"{where}: argument {position} is {value!r}; a kernel takes arrays, None, int and NumPy scalars: "
        "runtime.scalar(dtype, value) makes one"
    )
