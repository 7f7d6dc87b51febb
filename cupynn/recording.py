"""What the host gives a training step on a GPU, where the step is recorded as a CUDA graph and replayed.

A graph repeats its kernels with the arguments they were recorded with, and no line of Python runs. So what the host
computes for a step, and hands to kernels by value or in small arrays, goes through here:

- `upload(values, like)`: a table that stays as it is;
- `renewed(produce, like)`: numbers that change from step to step: learning rates, a dropout's key. They are asked for
  again before every replay, in the order of the step, so that the random generator moves as it would have.

Outside a recording both copy to where `like` is, as `asarray` does. See `cupynn.captured`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from cupynn.device import Array, xp_of

ALIGNMENT = 16  # bytes
CHUNK = 1 << 14
AT_ONCE = 8  # arrays that CuPy joins without a table of their addresses, which the host would bring to the device


class _Local(threading.local):
    recording: Recording | None = None


_local = _Local()


def current() -> Recording | None:
    """The recording that this thread makes; None where a step just runs."""
    return _local.recording


def upload(values: np.ndarray, like: Array) -> Array:
    """`values` where `like` is."""
    if _local.recording is None:
        return xp_of(like).asarray(values)
    return _local.recording.constant(values)


def renewed(produce: Callable[[], np.ndarray], like: Array) -> Array:
    """What `produce` returns, where `like` is; of the same shape and dtype each time."""
    if _local.recording is None:
        return xp_of(like).asarray(produce())
    return _local.recording.renewed(produce)


def concatenate(arrays: Sequence[Array], axis: int = 0) -> Array:
    """`xp.concatenate`, in a step that is recorded, too."""
    xp = xp_of(arrays[0])
    if _local.recording is not None:
        while len(arrays) > AT_ONCE:
            arrays = [xp.concatenate(arrays[i : i + AT_ONCE], axis=axis) for i in range(0, len(arrays), AT_ONCE)]
    return xp.concatenate(arrays, axis=axis)


def stack(arrays: Sequence[Array], axis: int = 0) -> Array:
    """`xp.stack`, in a step that is recorded, too."""
    return concatenate([xp_of(array).expand_dims(array, axis) for array in arrays], axis)


def pool() -> Any:
    """A memory pool for a recorded step. Where the device has no memory left it raises MemoryError: CuPy's own would
    give back to the device what the step has freed on its way, which the graph uses all the same."""
    import cupy

    def allocate(size: int) -> Any:
        try:
            return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise MemoryError(f"captured: no memory is left on the GPU for {size} bytes of the step") from error

    return cupy.cuda.MemoryPool(allocate)


class Recording:
    """What one recorded step needs from the host. Inside a `with` block it is this thread's `current()`.

    Nothing is copied while a stream captures, since a graph would repeat the copy from memory that has been given to
    others by then: `start` does that before the first replay, `renew` before the others.
    """

    def __init__(self) -> None:
        self._pool = None  # of memory that nothing else in the step had before
        self._constants: list[Array] = []  # kept for the graph, which knows their addresses
        self._values: list[np.ndarray] = []
        self._chunks: list[_Chunk] = []
        self._checks: list[Callable[[], bool]] = []
        self._zeroed: dict[Any, Array | None] = {}
        self.backward = False  # whether a backward pass was recorded

    def __enter__(self) -> Recording:
        _local.recording = self
        return self

    def __exit__(self, *error: object) -> None:
        _local.recording = None

    def constant(self, values: np.ndarray) -> Array:
        self._values.append(np.array(values, order="C"))
        self._constants.append(self._empty(values.shape, values.dtype))
        return self._constants[-1]

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory that keeps what is written to it between replays. In the step's own pool it might be memory that an
        operation before has given back, and that the operation writes to at each replay."""
        import cupy

        self._pool = self._pool or pool()
        with cupy.cuda.using_allocator(self._pool.malloc):
            return cupy.empty(shape, dtype)

    def renewed(self, produce: Callable[[], np.ndarray]) -> Array:
        values = np.asarray(produce())
        if not self._chunks or not self._chunks[-1].has_room(values.nbytes):
            size = max(values.nbytes, CHUNK)
            self._chunks.append(_Chunk(np.zeros(size, np.uint8), self._empty((size,), np.uint8)))
        return self._chunks[-1].add(values, produce)

    def still(self, check: Callable[[], bool]) -> None:
        """`check`, asked before every replay, says whether the arrays that the step was recorded with are in use."""
        self._checks.append(check)

    @property
    def valid(self) -> bool:
        return all(check() for check in self._checks)

    def zeroed(self, tensors: Iterable[Any]) -> None:
        """The step forgets the gradients of these tensors."""
        self._zeroed.update(dict.fromkeys(tensors))

    def finish(self) -> None:
        """The step is recorded: note where its gradients are. Raises RuntimeError where it adds to older ones."""
        if self.backward and not self._zeroed:
            raise RuntimeError(
                "captured: the step runs backward, but never zero_grad(), so that gradients would add up from call to "
                "call: call optimizer.zero_grad() in the step"
            )
        for tensor in self._zeroed:
            self._zeroed[tensor] = tensor.grad

    def start(self) -> None:
        """Copy constants, and the numbers that were asked for while recording, to the device."""
        import cupy

        for array, values in zip(self._constants, self._values, strict=True):
            array[...] = cupy.asarray(values)
        self._values.clear()
        for chunk in self._chunks:
            chunk.send()

    def renew(self) -> None:
        """Ask for the numbers of the next step."""
        for chunk in self._chunks:
            chunk.renew()

    def give_grads(self) -> None:
        """After a replay tensors have the gradients that it computed, as after a step that just ran."""
        for tensor, grad in self._zeroed.items():
            tensor.grad = grad


class _Chunk:
    """Several small arrays in one piece of memory, which one copy brings to the device."""

    def __init__(self, host: np.ndarray, device: Array) -> None:
        self._host, self._device = host, device
        self._used = 0
        self._parts: list[tuple[np.ndarray, Callable[[], np.ndarray]]] = []

    def has_room(self, size: int) -> bool:
        return self._used + size <= len(self._host)

    def add(self, values: np.ndarray, produce: Callable[[], np.ndarray]) -> Array:
        place = slice(self._used, self._used + values.nbytes)
        self._used = -(-place.stop // ALIGNMENT) * ALIGNMENT
        host, device = (side[place].view(values.dtype).reshape(values.shape) for side in (self._host, self._device))
        host[...] = values
        self._parts.append((host, produce))
        return device

    def renew(self) -> None:
        before = self._host.copy()
        for host, produce in self._parts:
            host[...] = produce()
        if not np.array_equal(before, self._host):
            self.send()

    def send(self) -> None:
        import cupy

        self._device[...] = cupy.asarray(self._host.copy())
