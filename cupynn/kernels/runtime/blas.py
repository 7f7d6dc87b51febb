"""Matrix products between kernels: small ones stay in the calling thread."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from cupynn import recording
from cupynn.device import Array, xp_of

LARGE = 10**9  # multiply-adds from which a product is worth all cores
_NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads64_")
_CORE_NAMES = ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename", "openblas_get_corename64_")


def matmul(a: Array, b: Array) -> Array:
    """a @ b, in a step that is recorded, too."""
    if recording.current() is None or xp_of(a) is np:
        return a @ b
    from . import cublas

    return cublas.matmul(a, b)


def multiply(a: Array, b: Array) -> Array:
    """a @ b. Products of the kernels' faces come here, so that a profile can take their time."""
    return matmul(a, b)


def product(a: Array, b: Array) -> Array:
    """a @ b; by one thread where NumPy's BLAS is OpenBLAS and the product is not large.

    After a product OpenBLAS's threads wait for the next one awake, for some 20 milliseconds, on the cores that the next
    kernels want. A SmallNet step at batch 128 took 19 ms on two cores, and 11 ms when its products, a hundredth of its
    work, kept to one thread; one of ResNet-20 with a single image 14 ms, and 7 ms. CuPy's arrays go to cuBLAS as they
    are.
    """
    if xp_of(a) is not np or max(a.size * b.shape[-1], b.size * a.shape[-2 if a.ndim > 1 else 0]) >= LARGE:
        return multiply(a, b)
    openblas = _openblas()
    if openblas is None or (threads := openblas[0]()) == 1:
        return multiply(a, b)
    openblas[1](1)
    try:
        return multiply(a, b)
    finally:
        openblas[1](threads)


def core() -> str | None:
    """The processor whose kernels NumPy's OpenBLAS runs, "Haswell" or "SkylakeX"; None where it has another BLAS."""
    for library in _libraries():
        for name in _CORE_NAMES:
            if (get := getattr(library, name, None)) is not None:
                get.restype = ctypes.c_char_p
                return get().decode()
    return None


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Functions that tell and set the threads of the OpenBLAS inside NumPy's wheel; None where it has another BLAS."""
    for library in _libraries():
        for name in _NAMES:
            get, put = (getattr(library, name.format(verb), None) for verb in ("get", "set"))
            if get is not None and put is not None:
                return get, put
    return None


def _libraries() -> Iterator[ctypes.CDLL]:
    package = pathlib.Path(np.__file__).parent
    for path in (*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")):
        with contextlib.suppress(OSError):
            yield ctypes.CDLL(str(path))  # NumPy has loaded it: the same one
