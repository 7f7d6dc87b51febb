"""Where arrays live: NumPy on the CPU, CuPy on a GPU. The only file that decides between the two."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray

_default = "cpu"
_FLOAT32 = np.dtype(np.float32)
_generator = np.random.default_rng()


def xp_of(array: Array) -> ModuleType:
    """The module an array belongs to, `numpy` or `cupy`. Never imports CuPy: a CuPy array has done that already."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return cupy
    return np


def cuda_available() -> bool:
    """True where CuPy is installed and finds a GPU with a driver. Never raises."""
    try:
        import cupy

        return bool(cupy.cuda.is_available())
    except Exception:  # a broken CUDA installation raises many types; each means: no GPU here
        return False


def is_floating(dtype: np.dtype) -> bool:
    """True for NumPy's floating-point types and for bfloat16, whose `kind` is not theirs."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16")


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """In which type arrays of `dtype` are computed with and summed: float32 for float16 and bfloat16, else their own.

    It is also the type of a layer's parameters where its input has this dtype.
    """
    return _FLOAT32 if dtype.itemsize == 2 and is_floating(dtype) else dtype


def wide(array: Array) -> Array:
    """`array` in its `compute_dtype`; not copied where it has it."""
    return array if array.dtype.itemsize != 2 else array.astype(compute_dtype(array.dtype), copy=False)


def dtype_named(name: str) -> np.dtype:
    """float16, bfloat16, float32 or float64. Raises ImportError where bfloat16 needs a package that is not there."""
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError(
                "bfloat16: NumPy has no such type; the package ml_dtypes does: pip install 'cupynn[bfloat16]'"
            ) from None
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _parse(device: str) -> tuple[str, int]:
    if device == "cpu":
        return "cpu", 0
    name, _, number = device.partition(":")
    if name == "cuda" and (number == "" or number.isdigit()):
        return "cuda", int(number or 0)
    raise ValueError(f'device: expected "cpu", "cuda" or "cuda:N"; got {device!r}')


def default_device() -> str:
    """The device where new arrays are made: `"cpu"` or `"cuda:N"`."""
    return _default


def set_default_device(device: str) -> None:
    """Choose where new arrays are made.

    Raises ValueError for a name that is no device, RuntimeError for a GPU that is not there.
    """
    global _default
    kind, number = _parse(device)
    if kind == "cuda":
        if not cuda_available():
            raise RuntimeError(f"device: {device!r} was asked for, but CuPy finds no GPU on this computer")
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        if number >= count:
            raise RuntimeError(f"device: {device!r} was asked for, but this computer has {count} GPUs, from cuda:0")
        cupy.cuda.Device(number).use()
    _default = "cpu" if kind == "cpu" else f"cuda:{number}"


@contextlib.contextmanager
def use_device(device: str) -> Iterator[None]:
    """Make new arrays on `device` inside a `with` block. A GPU becomes CuPy's current device of this thread."""
    global _default
    before, current = _default, _current_gpu() if _parse(device)[0] == "cuda" and cuda_available() else None
    set_default_device(device)
    try:
        yield
    finally:
        _default = before
        if current is not None:
            import cupy

            cupy.cuda.Device(current).use()


def _current_gpu() -> int:
    import cupy

    return cupy.cuda.runtime.getDevice()


def default_xp() -> ModuleType:
    """The array module of the default device."""
    if _default == "cpu":
        return np
    import cupy

    return cupy


def asarray(data: Any, dtype: Any = None) -> Array:
    """`data` as an array on the default device. An array that is already there is not copied."""
    if default_xp() is np:
        return np.asarray(to_numpy(data), dtype=dtype)
    return default_xp().asarray(data, dtype=dtype)


def to_numpy(array: Array) -> np.ndarray:
    """A NumPy array of the same values; the array itself if it is one."""
    if xp_of(array) is np:
        return np.asarray(array)
    return array.get()


def manual_seed(seed: int) -> None:
    """Seed every random number the library draws.

    Numbers are drawn on the host, so the same seed gives the same numbers on every device.
    """
    global _generator
    _generator = np.random.default_rng(seed)


def generator() -> np.random.Generator:
    """The generator that initialisation, dropout and shuffling draw from."""
    return _generator
