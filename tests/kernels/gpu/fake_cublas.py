"""cuBLAS of the fake GPU, as `cupynn.kernels.runtime.cublas` calls it: does what its arguments say of memory."""

import fake_streams
import numpy as np

DTYPES = {(0, 68): np.dtype(np.float32), (1, 70): np.dtype(np.float64)}  # CUDA's type, cuBLAS's to compute with
REFUSED = ("matmul", "dot", "vdot", "inner", "tensordot", "einsum")  # of CuPy's own, which it does with cuBLAS


def refuse(name):
    """CuPy calls no cuBLAS while a stream captures."""
    if name in REFUSED and fake_streams.capturing():
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


class Cublas:
    """C functions, which take numbers by ctypes; matrices lie column by column."""

    def cublasSetStream_v2(self, handle, stream):
        assert stream.value == fake_streams.current[-1].ptr
        return 0

    def cublasGemmEx(self, handle, ta, tb, m, n, k, one, a, a_type, lda, b, b_type, ldb, zero, c, c_type, ldc, *how):
        none = _Number(0)
        a, b, c = (a, a_type, lda, none), (b, b_type, ldb, none), (c, c_type, ldc, none)
        return self.cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, one, *a, *b, zero, *c, 1, *how)

    def cublasGemmStridedBatchedEx(self, handle, ta, tb, m, n, k, one, *rest):
        a, b, zero, c, (count, compute, algorithm) = rest[:4], rest[4:8], rest[8], rest[9:13], rest[13:]
        dtype = DTYPES[a[1], compute]
        assert a[1] == b[1] == c[1] and algorithm == -1 and len(rest) == 16
        assert (one._obj.value, zero._obj.value) == (1, 0) and type(one._obj)(0.1).value == dtype.type(0.1)

        def matrices(pointer, leading, stride, turned, rows, columns):
            rows, columns = (columns, rows) if turned else (rows, columns)
            assert leading >= max(1, rows)
            size = dtype.itemsize
            shape, strides = (count, rows, columns), (stride.value * size, size, leading * size)
            face = {"shape": shape, "strides": strides, "typestr": dtype.str, "data": (pointer.value, False)}
            found = np.asarray(_Memory(face | {"version": 3}))
            return found.swapaxes(1, 2) if turned else found

        def run():
            left, right = matrices(a[0], *a[2:], ta, m, k), matrices(b[0], *b[2:], tb, k, n)
            matrices(c[0], *c[2:], 0, m, n).swapaxes(1, 2)[...] = right.swapaxes(1, 2) @ left.swapaxes(1, 2)

        fake_streams.perform(run, (), ())
        return 0


class _Number:
    def __init__(self, value):
        self.value = value


class _Memory:
    def __init__(self, face):
        self.__array_interface__ = face
