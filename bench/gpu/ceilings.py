"""What this GPU can do at most: bytes of a copy, multiply-adds of float32, matrix products by cuBLAS in four types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from bench.gpu.clock import Clock
from bench.gpu.found import Gpu
from bench.gpu.timed import tried
from cupynn.kernels import runtime
from cupynn.profile import floors

# name: bytes of a number, CUDA's number of the type, cuBLAS's number of the type to compute with
# (library_types.h: CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF; cublas_api.h: CUBLAS_COMPUTE_32F, ..._FAST_TF32)
PRODUCTS = {"float32": (4, 0, 68), "TF32": (4, 0, 77), "float16": (2, 2, 68), "bfloat16": (2, 14, 68)}
NEWER = ("TF32", "bfloat16")  # since compute capability 8.0


def measure(gpu: Gpu, rounds: int, seconds: float) -> Iterator[dict]:
    """A row for each ceiling: name, "bytes" or "operations" per second, and the seconds it was measured by."""
    clock = Clock()
    yield from _timed(clock, "copy", "bytes", lambda: _copy(gpu), rounds, seconds)
    yield from _timed(clock, "multiply-add", "operations", lambda: _multiply_add(gpu), rounds, seconds)
    for name in PRODUCTS:
        if name in NEWER and float(gpu.capability) < 8:
            continue
        make = partial(_product, name, gpu)
        yield from _timed(clock, f"{name} product", "operations", make, rounds, seconds)


def _timed(clock: Clock, name: str, unit: str, make: Callable, rounds: int, limit: float) -> Iterator[dict]:
    """The best of all rounds: a ceiling is what the device can do, not what it usually does."""
    made, fault = tried(make)
    times, fault = ({}, fault) if fault else tried(lambda: clock.kernels({"run": made[1]}, rounds, limit))
    if fault:  # one that cannot be measured does not take the others with it
        yield {"name": name, "failed": fault}
        return
    best = min(times["run"].seconds)
    yield {"name": name, "unit": unit, "per_second": made[0] / best, "seconds": best}


def _copy(gpu: Gpu) -> tuple[int, Callable]:
    """From one array to another, each sixteen times the second-level cache; bytes read and written."""
    import cupy

    size = 16 * gpu.l2 // 4
    source = cupy.ones(size, np.float32)
    target = cupy.empty(size, np.float32)
    return 2 * source.nbytes, lambda: cupy.copyto(target, source)


def _multiply_add(gpu: Gpu) -> tuple[int, Callable]:
    """Independent chains of multiply-adds on registers, in several times the threads that the device holds."""
    import cupy

    threads, steps, chains, lanes = 256, 4096, 8, 4
    blocks = 64 * gpu.multiprocessors
    sums = cupy.empty(blocks * threads, np.float32)
    kernel = f"multiply_add<float, {lanes}, {chains}>"
    arguments = sums, steps, np.float32(0.5)
    return 2 * blocks * threads * steps * chains * lanes, lambda: runtime.launch(
        floors.SOURCE, kernel, blocks, threads, arguments
    )


def _product(name: str, gpu: Gpu) -> tuple[int, Callable]:
    """C = A B of random matrices (zeros would take less power and run faster), of 8192 x 8192 on a large device."""
    import cupy
    from cupy_backends.cuda.libs import cublas

    size, kind, compute = PRODUCTS[name]
    side = 1024 * max(1, min(8, gpu.multiprocessors // 8))
    numbers = np.resize(np.random.default_rng(0).standard_normal(1 << 21, np.float32), side * side)
    if name == "bfloat16":  # the upper half of each float32
        host = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    else:
        host = numbers.astype(np.float32 if size == 4 else np.float16)
    a, b = cupy.asarray(host), cupy.asarray(host[::-1])
    c = cupy.empty_like(a)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    handle = cupy.cuda.get_cublas_handle()

    def run():
        cublas.gemmEx(
            *(handle, 0, 0, side, side, side, one.ctypes.data),
            *(a.data.ptr, kind, side, b.data.ptr, kind, side, zero.ctypes.data),
            *(c.data.ptr, kind, side, compute, -1),
        )

    return 2 * side**3, run
