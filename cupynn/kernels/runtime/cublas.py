"""Matrix products of a step that is being recorded as a CUDA graph.

cuBLAS can be recorded (cuBLAS documentation, "CUDA Graphs Support"), but CuPy raises NotImplementedError where a stream
captures (`setStream` in cupy_backends/cuda/libs/cublas.pyx, up to 14.2). So cuBLAS is called here directly, with the
handle that CuPy has made, as CuPy calls it: one product for matrices, one call for a stack of them.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import numpy as np

from cupynn.device import Array

# dtype: CUDA's number of the type and cuBLAS's of the type to compute with (library_types.h, cublas_api.h)
_TYPES = {
    np.dtype(np.float32): (0, 68, ctypes.c_float),  # CUDA_R_32F, CUBLAS_COMPUTE_32F
    np.dtype(np.float64): (1, 70, ctypes.c_double),  # CUDA_R_64F, CUBLAS_COMPUTE_64F
}
_DEFAULT = -1  # CUBLAS_GEMM_DEFAULT


def matmul(a: Array, b: Array) -> Array:
    """`cupy.matmul`. What is not of float32 or float64 both, or does not fit, is left to CuPy."""
    import cupy

    if a.ndim == 1 and b.ndim:
        return matmul(a[None], b)[..., 0, :] if b.ndim > 1 else matmul(a[None], b)[..., 0]
    if b.ndim == 1 and a.ndim:
        return matmul(a, b[:, None])[..., 0]
    dtype = a.dtype
    if dtype != b.dtype or dtype not in _TYPES or a.shape[-1:] != b.shape[-2:-1]:
        return cupy.matmul(a, b)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (rows, inner), columns, count = a.shape[-2:], b.shape[-1], math.prod(batch)
    y = cupy.zeros((*batch, rows, columns), dtype) if inner == 0 else cupy.empty((*batch, rows, columns), dtype)
    if y.size == 0 or inner == 0:
        return y
    a, *of_a = _operand(cupy, a, batch)
    b, *of_b = _operand(cupy, b, batch)
    kind, compute, scalar = _TYPES[dtype]
    one, zero = (ctypes.byref(scalar(value)) for value in (1, 0))
    library, handle = _library(), ctypes.c_void_p(cupy.cuda.get_cublas_handle())
    _check("cublasSetStream", library.cublasSetStream_v2(handle, ctypes.c_void_p(cupy.cuda.get_current_stream().ptr)))

    def matrix(array: Array, leading: int, stride: int) -> tuple:
        step = (ctypes.c_longlong(stride),) if count > 1 else ()
        return ctypes.c_void_p(array.data.ptr), kind, leading, *step

    # cuBLAS counts column by column, and takes each of these for its transpose: y^T = b^T a^T.
    multiply = library.cublasGemmStridedBatchedEx if count > 1 else library.cublasGemmEx
    status = multiply(
        *(handle, of_b[0], of_a[0], columns, rows, inner, one, *matrix(b, *of_b[1:]), *matrix(a, *of_a[1:])),
        *(zero, *matrix(y, columns, rows * columns), *((count,) if count > 1 else ()), compute, _DEFAULT),
    )
    _check("the matrix product", status)
    return y


def _operand(cupy: Any, x: Array, batch: tuple[int, ...]) -> tuple[Array, int, int, int]:
    """A stack of matrices as cuBLAS takes one: the array, copied where it must be; whether its matrices lie column by
    column (1) or row by row (0); elements from row to row, or column to column; and from matrix to matrix."""
    x = cupy.broadcast_to(x, (*batch, *x.shape[-2:]))
    lies, stride = _order(x), _stride(x)
    if lies is None or stride is None:
        x = cupy.ascontiguousarray(x)
        lies, stride = _order(x), _stride(x)
    return x, *lies, stride


def _order(x: Array) -> tuple[int, int] | None:
    (rows, columns), (row, column) = x.shape[-2:], (stride // x.itemsize for stride in x.strides[-2:])
    if (column == 1 or columns == 1) and (row >= columns or rows == 1):
        return 0, row if rows > 1 else columns
    if (row == 1 or rows == 1) and (column >= rows or columns == 1):
        return 1, column if columns > 1 else rows
    return None


def _stride(x: Array) -> int | None:
    """Elements from one matrix to the next; None where they do not follow each other evenly."""
    step, count = None, 1
    for size, stride in zip(x.shape[-3::-1], x.strides[-3::-1], strict=True):
        if size == 1:
            continue
        if step is not None and stride != step * count:
            return None
        step, count = stride if step is None else step, count * size
    return (step or 0) // x.itemsize


def _check(what: str, status: int) -> None:
    if status:
        raise RuntimeError(f"cuBLAS: {what} ended with status {status}")


@functools.cache
def _library() -> Any:
    """cuBLAS, as CuPy's module for it has loaded it: names are looked for in what that is linked to."""
    from cupy_backends.cuda.libs import cublas

    return ctypes.CDLL(cublas.__file__)
