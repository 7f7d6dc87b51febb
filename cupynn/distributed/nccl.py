"""Sums over GPUs by NCCL, on a stream of their own beside the computation. MPI brings the ranks together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cupynn.device import Array


class Ring:
    """The GPUs of all ranks, one each: the GPU that is current when the ring is made.

    Raises RuntimeError where CuPy finds no NCCL.
    """

    def __init__(self, rank: int, size: int, copied: Callable[[Any], Any]):
        """copied: returns what rank 0 gives, on every rank."""
        import cupy
        from cupy.cuda import nccl  # a stub without functions where the library is missing

        if not nccl.available:
            raise RuntimeError(
                "distributed: sums over GPUs need NCCL, and CuPy finds none; pip install nvidia-nccl-cu12 (or -cu13), "
                "as CUDA's version is"
            )
        self._types = {
            "float32": nccl.NCCL_FLOAT32,
            "float64": nccl.NCCL_FLOAT64,
            "int64": nccl.NCCL_INT64,
        }
        self._sum = nccl.NCCL_SUM
        self._current = cupy.cuda.get_current_stream
        self._ring = nccl.NcclCommunicator(size, copied(nccl.get_unique_id() if rank == 0 else None), rank)
        self._stream = cupy.cuda.Stream(non_blocking=True)

    def start_sum(self, array: Array) -> _Started:
        """Begin to replace a contiguous array by its sum, behind all that was asked of the current stream so far."""
        self._stream.wait_event(self._current().record())
        pointer, dtype = array.data.ptr, self._types[array.dtype.name]
        self._ring.allReduce(pointer, pointer, array.size, dtype, self._sum, self._stream.ptr)
        return _Started(array, self._stream.record(), self._current)


class _Started:
    """A sum that a GPU works on; the names are those of mpi4py's requests."""

    def __init__(self, array: Array, done: Any, current: Callable[[], Any]):
        self.array = array  # keeps the memory
        self._done, self._current = done, current

    def Test(self) -> bool:
        """A GPU needs nobody to move it on."""
        return self._done.done

    def Wait(self) -> None:
        """What the current stream is asked from here on sees the sum; the host does not wait."""
        self._current().wait_event(self._done)
